"""The models by command line, against a server of models on a real port."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.sample import write_guidelines_pdf
from tests.ai_server import AiServer

Cli = Any  # the fixture's class is in the conftest

TASKS = "id,prompt,rating,created_by_email\n" + "".join(
    f"{number},feed the {'grey' if number % 2 else 'white'} cat of house {number // 2},"
    f"{5 if number % 2 else 1},ann@x.org\n"
    for number in range(12)
)


@pytest.fixture
def served(cli: Cli, ai_server: AiServer, tmp_path: Path) -> Cli:
    """A command line whose models are those of the server, with guidelines and twelve embedded tasks."""
    cli.environment |= {
        "AI_PROVIDER": "lmstudio",
        "AI_HOST": ai_server.url,
        "EMBEDDING_MODEL": "embedder",
        "LLM_MODEL": "chatter",
        "SIMILARITY_THRESHOLD": "0.7",
    }
    write_guidelines_pdf(tmp_path / "g.pdf")
    (tmp_path / "a.csv").write_text(TASKS)
    cli.run("guidelines", "p", tmp_path / "g.pdf")
    cli.run("ingest", tmp_path / "a.csv", "--project", "p", "--type", "task", "--wait")
    return cli


def test_similar_records_and_near_duplicates_are_shown(served: Cli) -> None:
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
    assert served.run("similar", "nobody", expect=1).stderr == "opspipe: there is no record 'nobody'\n"


def test_a_project_is_embedded_anew_by_another_model(served: Cli, ai_server: AiServer) -> None:
    ai_server.behaviour.models = ("better", "chatter")
    ai_server.behaviour.dimensions = 24
    served.run("settings", "set", "embedding_model", "better")
    refused = served.run("search", "p", "a cat", expect=1)
    assert "embeddings are of the model 'embedder' and the settings say 'better'" in refused.stderr
    done = served.run("vectorize", "p", "--wait")
    assert "12 of 12 records embedded" in done.stdout
    assert re.search(r"used: 1 calls, \d+ tokens read", done.stdout)
    assert len(served.json("search", "p", "a cat")) == 10


def test_an_analysis_is_estimated_stopped_at_its_budget_and_resumed(served: Cli, ai_server: AiServer) -> None:
    ai_server.behaviour.cost = 0.5
    ai_server.behaviour.prices = {"chatter": (1e-6, 2e-6)}
    estimate = json.loads(served.run("analyze", "p", "--likert", "--dry-run", "--json").stdout)
    assert (estimate["record_count"], estimate["call_count"]) == (12, 24)
    wanted = estimate["input_tokens"] * 1e-6 + estimate["output_tokens"] * 2e-6
    assert estimate["cost_usd"] == pytest.approx(wanted)
    assert "12 records, 12 calls of chatter" in served.run("analyze", "p", "--dry-run").stdout
    assert ai_server.seen.chats == 0

    stopped = served.run("analyze", "p", "--budget", "1", "--wait", expect=1)
    assert "FAILED" in stopped.stderr
    assert "the budget of 1 USD is spent" in stopped.stderr
    (job, *_) = served.json("jobs")
    assert 1 <= job["spent"]["cost_usd"] <= 1 + 8 * 0.5
    assert "give a larger one with `--budget`" in served.run("retry", job["id"], expect=1).stderr
    served.run("retry", job["id"], "--budget", "100")
    assert "12 of 12 records analyzed" in served.run("watch", job["id"]).stdout
    assert ai_server.seen.chats == 12
    assert "6.00 USD" in served.run("jobs").stdout
    refused = served.run("analyze", "p", "--budget", "0", expect=1)
    assert "a budget of 0.0 USD allows no call" in refused.stderr


def test_trends_are_told(served: Cli, ai_server: AiServer) -> None:
    assert "As asked." in served.run("trends", "p", "--type", "task").stdout
    report = json.loads(served.run("trends", "p", "--type", "task", "--json").stdout)
    assert report["method"].startswith("Judged by chatter from 6 TOP_10 and 6 BOTTOM_10 TASK records")
    assert ai_server.seen.chats == 2
    assert "no FEEDBACK records" in served.run("trends", "p", "--type", "feedback", expect=1).stderr


def test_the_settings_are_tested_and_the_exit_code_says_how(cli: Cli, ai_server: AiServer) -> None:
    cli.environment |= {"AI_PROVIDER": "lmstudio", "AI_HOST": ai_server.url, "LLM_MODEL": "chatter"}
    done = cli.run("settings", "test", expect=1)
    assert "opspipe settings set embedding_model NAME" in done.stdout
    cli.run("settings", "set", "embedding_model", "embedder")
    done = cli.run("settings", "test")
    assert "16 dimensions" in done.stdout
    ai_server.behaviour.key = "sk-another"
    cli.run("settings", "set", "ai_key", "sk-very-secret")
    done = cli.run("settings", "test", expect=1)
    assert "set ai_key" in done.stdout
    assert "sk-very-secret" not in done.stdout + done.stderr
    assert "sk-very-secret" not in cli.run("settings", "list").stdout


def test_a_rating_without_a_language_model_is_refused_at_once(cli: Cli, tmp_path: Path) -> None:
    write_guidelines_pdf(tmp_path / "g.pdf")
    cli.run("guidelines", "p", tmp_path / "g.pdf")
    refused = cli.run("analyze", "p", "--likert", expect=1)
    assert "ratings need a language model" in refused.stderr
