"""The models by command line, against a server of models on a real port."""

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from cli.app import app
from cli.output import console, errors
from pipeline.errors import PipelineError
from pipeline.sample import write_guidelines_pdf
from pipeline.sweeper import sweep
from pipeline.system_settings import write_setting
from tasks import publish
from tasks.workers import count_workers
from tests.ai_server import AiServer
from tests.workers import Workers

TASKS = "id,prompt,rating,created_by_email\n" + "".join(
    f"{number},feed the {'grey' if number % 2 else 'white'} cat of house {number // 2},"
    f"{5 if number % 2 else 1},ann@x.org\n"
    for number in range(12)
)


@dataclass
class Done:
    stdout: str
    stderr: str


class Commands:
    """Commands in this process, on the servers of the test: each alone would take seconds to start."""

    def run(self, *arguments: str | Path, expect: int = 0) -> Done:
        console.width = errors.width = 200
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        code, said = result.exit_code, result.stderr
        if isinstance(result.exception, PipelineError):
            said += str(result.exception)
        elif result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert code == expect, f"exit code {code}\n{result.stdout}\n{said}"
        return Done(result.stdout, said)

    def json(self, *arguments: str | Path) -> Any:  # noqa: ANN401 - whatever the command prints
        return json.loads(self.run(*arguments, "--json").stdout)


@pytest.fixture
def served(
    session: Session, workers: Workers, wait: Callable[..., None], use_ai_server: AiServer, tmp_path: Path
) -> Commands:
    """Commands, workers and models of the test; a project with guidelines and twelve embedded tasks."""
    assert use_ai_server.port
    write_setting(session, "similarity_threshold", "0.7")
    session.commit()
    workers.start()
    wait(lambda: count_workers() > 0, what="the worker")
    write_guidelines_pdf(tmp_path / "g.pdf")
    (tmp_path / "a.csv").write_text(TASKS)
    commands = Commands()
    commands.run("guidelines", "p", tmp_path / "g.pdf")
    commands.run("ingest", tmp_path / "a.csv", "--project", "p", "--type", "task", "--wait")
    return commands


def test_similar_records_and_near_duplicates_are_shown(served: Commands) -> None:
    found = served.json("search", "p", "feed the grey cat of house 3", "--limit", "2")
    assert found[0]["content"] == "feed the grey cat of house 3"
    assert found[0]["similarity"] == pytest.approx(1.0)
    nearest = served.json("similar", found[0]["id"], "--limit", "3")
    assert len(nearest) == 3
    assert found[0]["id"] not in {record["id"] for record in nearest}
    flags = served.json("similar", "--flags", "p")
    assert flags[0]["created_by"] == "ann@x.org"
    assert "feed the" in served.run("similar", "--flags", "p").stdout
    assert "idx_record_embedding_16" in served.run("db", "index").stdout
    assert served.json("similar", found[0]["id"], "--limit", "3") == nearest
    assert "idx_record_embedding_16" in served.run("db", "index", "--drop").stdout
    served.run("db", "check")
    assert "say either a RECORD" in served.run("similar", expect=1).stderr
    assert served.run("similar", "nobody", expect=1).stderr == "there is no record 'nobody'"


def test_a_project_is_embedded_anew_by_another_model(served: Commands, use_ai_server: AiServer) -> None:
    use_ai_server.behaviour.models = ("better", "chatter")
    use_ai_server.behaviour.dimensions = 24
    served.run("settings", "set", "embedding_model", "better")
    refused = served.run("search", "p", "a cat", expect=1)
    assert "embeddings are of the model 'embedder' and the settings say 'better'" in refused.stderr
    done = served.run("vectorize", "p", "--wait")
    assert "12 of 12 records embedded" in done.stdout
    assert re.search(r"used: 1 calls, \d+ tokens read", done.stdout)
    assert len(served.json("search", "p", "a cat")) == 10


def test_the_worst_records_are_found_by_their_scores(served: Commands, use_ai_server: AiServer) -> None:
    use_ai_server.behaviour.chat = lambda said: json.dumps(
        {"score": 30 if "grey cat" in said else 60, "summary": "s", "analysis": "a", "suggestions": []}
    )
    assert served.json("records", "p", "--sort", "alignmentScore")["records"] == []
    assert "only those that are analyzed" in served.run("records", "p", "--sort", "alignmentScore").stdout
    served.run("analyze", "p", "--wait")
    worst = served.json("records", "p", "--sort", "alignmentScore", "--order", "asc", "--limit", "7")
    assert [record["alignment_score"] for record in worst["records"]] == [30] * 6 + [60]
    shown = served.run("records", "p", "--sort", "alignmentScore", "--limit", "7").stdout
    assert shown.index("white") < shown.index("grey")
    (cursor,) = re.findall(r"more: --cursor (\S+)", shown)
    rest = served.json("records", "p", "--sort", "alignmentScore", "--cursor", cursor)
    assert len(rest["records"]) == 5
    found = served.json("records", "p", "--search", "WHITE cat of house 3", "--category", "BOTTOM_10")
    assert [record["content"] for record in found["records"]] == ["feed the white cat of house 3"]


def test_records_that_failed_are_told_and_listed_with_their_reasons(
    served: Commands, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.poison = {"grey": 422}
    done = served.run("analyze", "p", "--wait")
    assert "COMPLETED, 6 of 12 records analyzed, 6 not analyzed" in done.stdout
    (job, *_) = served.json("jobs")
    assert f"6 records failed: `opspipe failures {job['id']}`" in done.stderr
    assert "6 of 12 records analyzed, 6 not analyzed" in served.run("jobs").stdout
    listed = served.run("failures", job["id"], "--limit", "4").stdout
    assert listed.count("HTTP_422") == 5  # four rows and the sum
    assert "cannot take grey" in listed
    assert "feed the grey cat" in listed
    assert "6 failed: 6 HTTP_422" in listed
    assert "`opspipe analyze p` takes them up again" in listed
    (cursor,) = re.findall(r"more: --cursor (\S+)", listed)
    rest = served.json("failures", job["id"], "--cursor", cursor)
    assert [(entry["stage"], entry["code"]) for entry in rest["failures"]] == [("analyze", "HTTP_422")] * 2
    assert rest["next_cursor"] is None
    refused = served.run("failures", job["id"], "--cursor", "x", expect=1)
    assert "the cursor is none" in refused.stderr

    assert "add --wait" in served.run("analyze", "p", "--strict", expect=2).stderr
    served.run("watch", job["id"])
    assert "6 records failed" in served.run("watch", job["id"], "--strict", expect=1).stderr
    served.run("analyze", "p", "--wait", "--strict", expect=1)
    use_ai_server.behaviour.poison = {}
    assert "6 of 6 records analyzed" in served.run("analyze", "p", "--wait", "--strict").stdout
    (last, *_) = served.json("jobs")
    assert "no record failed" in served.run("failures", last["id"]).stdout


def test_a_load_with_records_that_could_not_be_embedded_says_so(
    served: Commands, use_ai_server: AiServer, tmp_path: Path
) -> None:
    use_ai_server.behaviour.poison = {"dragon": 422}
    (tmp_path / "b.csv").write_text("id,prompt\n101,feed the dragon\n102,feed the bird\n")
    ingest = ("ingest", tmp_path / "b.csv", "--project", "p", "--type", "task", "--wait")
    done = served.run(*ingest)
    assert "2 saved + 0 skipped = 2 rows, 1 not embedded" in done.stdout
    assert "1 record failed: `opspipe failures" in done.stderr
    served.run(*ingest, "--force", "--strict", expect=0)  # all of its rows are known
    served.run("vectorize", "p", "--wait", "--strict", expect=1)
    (job, *_) = served.json("jobs")
    assert "`opspipe vectorize p` takes them up again" in served.run("failures", job["id"]).stdout


def test_who_watches_is_told_what_a_job_waits_for(
    served: Commands, use_ai_server: AiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Beat's part.
    monkeypatch.setattr("cli.wait.some_workers", lambda: nullcontext(lambda: publish(sweep())))
    monkeypatch.setattr("cli.progress._LINE_SECONDS", 0.5)
    use_ai_server.behaviour.fail_next, use_ai_server.behaviour.retry_after = 1, "7"
    done = served.run("analyze", "p", "--wait")
    assert re.search(r"PROCESSING, 0 of 12 analyzed, waiting: .* answered 503: out of order", done.stderr)
    assert "12 of 12 records analyzed" in done.stdout


def test_an_analysis_is_estimated_stopped_at_its_budget_and_resumed(
    served: Commands, use_ai_server: AiServer
) -> None:
    use_ai_server.behaviour.cost = 0.5
    for setting, price in (("llm_input_price", "1"), ("llm_output_price", "2")):
        served.run("settings", "set", setting, price)
    estimate = json.loads(served.run("analyze", "p", "--likert", "--dry-run", "--json").stdout)
    assert (estimate["record_count"], estimate["call_count"]) == (12, 24)
    wanted = estimate["input_tokens"] * 1e-6 + estimate["output_tokens"] * 2e-6
    assert estimate["cost_usd"] == pytest.approx(wanted)
    assert "12 records, 12 calls of chatter" in served.run("analyze", "p", "--dry-run").stdout
    assert use_ai_server.seen.chats == 0

    stopped = served.run("analyze", "p", "--budget", "1", "--wait", expect=1)
    assert "FAILED" in stopped.stderr
    assert "the budget of 1 USD is spent" in stopped.stderr
    (job, *_) = served.json("jobs")
    assert 1 <= job["spent"]["cost_usd"] <= 1 + 8 * 0.5
    assert "give a larger one with `--budget`" in served.run("retry", job["id"], expect=1).stderr
    served.run("retry", job["id"], "--budget", "100")
    assert "12 of 12 records analyzed" in served.run("watch", job["id"]).stdout
    assert use_ai_server.seen.chats == 12
    assert "6.00 USD" in served.run("jobs").stdout
    refused = served.run("analyze", "p", "--budget", "0", expect=1)
    assert "a budget of 0.0 USD allows no call" in refused.stderr


def test_no_transaction_is_open_while_prices_are_asked_for(
    session: Session, use_ai_server: AiServer, open_transactions: Callable[[], int], tmp_path: Path
) -> None:
    assert session
    commands, seen = Commands(), []
    write_guidelines_pdf(tmp_path / "g.pdf")
    commands.run("guidelines", "p", tmp_path / "g.pdf")
    use_ai_server.behaviour.on_list = lambda: seen.append(open_transactions())
    assert "0 records, 0 calls of chatter" in commands.run("analyze", "p", "--dry-run").stdout
    assert seen == [0]


def test_trends_are_told(served: Commands, use_ai_server: AiServer) -> None:
    assert "As asked." in served.run("trends", "p", "--type", "task").stdout
    report = json.loads(served.run("trends", "p", "--type", "task", "--json").stdout)
    assert report["method"].startswith("Judged by chatter from 6 TOP_10 and 6 BOTTOM_10 TASK records")
    assert use_ai_server.seen.chats == 2
    assert "no FEEDBACK records" in served.run("trends", "p", "--type", "feedback", expect=1).stderr


def test_the_settings_are_tested_and_the_exit_code_says_how(
    served: Commands, use_ai_server: AiServer
) -> None:
    assert "16 dimensions" in served.run("settings", "test").stdout
    use_ai_server.behaviour.key = "sk-another"
    served.run("settings", "set", "ai_key", "sk-very-secret")
    done = served.run("settings", "test", expect=1)
    assert "set ai_key" in done.stdout
    assert "sk-very-secret" not in done.stdout + done.stderr
    assert "sk-very-secret" not in served.run("settings", "list").stdout
    served.run("settings", "set", "ai_provider", "local")
    refused = served.run("analyze", "p", "--likert", expect=1)
    assert "ratings need a language model" in refused.stderr
