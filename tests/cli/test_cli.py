"""The command line as a person uses it: real processes, what they print and how they exit."""

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.sample import write_guidelines_pdf, write_sample_csv

OPSPIPE = Path(sys.executable).with_name("opspipe")
Wait = Callable[..., None]
Site = Any  # the fixtures' classes are in the conftests
Cli = Any
INTO_P = ("--project", "p", "--type", "task")


@pytest.fixture
def up(cli: Cli) -> Iterator["subprocess.Popen[str]"]:
    """`opspipe up`, running; its first lines are read by the test."""
    with subprocess.Popen(
        [OPSPIPE, "up"], env=cli.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_file_is_ingested_without_anything_running_and_nothing_runs_afterwards(
    cli: Cli, tmp_path: Path
) -> None:
    facts = write_sample_csv(tmp_path / "sample.csv", rows=120)
    done = cli.run("ingest", tmp_path / "sample.csv", *INTO_P, "--no-embed", "--wait")
    kept = facts.saved_count + facts.skipped["Keyword Mismatch"]
    assert f"{kept} saved" in done.stdout
    assert cli.processes() == []
    (job,) = cli.json("jobs")
    assert (job["status"], job["saved_count"]) == ("COMPLETED", kept)


def test_the_same_file_again_is_refused_in_one_line_and_forced_saves_nothing(
    cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("id,prompt\n1,the only task there is\n")
    ingest = ("ingest", tmp_path / "a.csv", *INTO_P, "--no-embed", "--wait")
    cli.run(*ingest)
    refused = cli.run(*ingest, expect=1)
    assert re.fullmatch(r"opspipe: the same file was already submitted .*\n", refused.stderr)
    assert "1 Duplicate ID" in cli.run(*ingest, "--force").stdout


def test_a_job_is_deleted_with_every_record_it_loaded(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,prompt\n1,the first task of all\n2,the second task of all\n")
    ingest = ("ingest", tmp_path / "a.csv", *INTO_P, "--no-embed", "--wait")
    cli.run(*ingest)
    (job,) = cli.json("jobs")
    done = cli.run("delete", str(job["id"])[:20])
    assert done.stdout == f"job {job['id']} is deleted with 2 records\n"
    assert cli.json("jobs") == []
    assert list((cli.home / "uploads").iterdir()) == []
    assert "there is no job" in cli.run("delete", str(job["id"]), expect=1).stderr
    assert "2 saved" in cli.run(*ingest).stdout  # neither the bytes nor the identities are known any more


def test_a_job_that_fails_is_exit_code_one_and_says_why(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt\nthe first task of all\n"never closed\n')
    done = cli.run("ingest", tmp_path / "a.csv", *INTO_P, "--wait", expect=1)
    assert "line 3" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("ingest", "--nonsense"), 2, "No such option"),
        (("watch", "cnone"), 1, "there is no job 'cnone'"),
        (("analyze", "nobody"), 1, "there is no project 'nobody'"),
        (("settings", "set", "ai_provider", "oracle"), 1, "choose from local"),
        (("settings", "set", "colour", "red"), 1, "there is no setting 'colour'"),
        (
            ("bonus", "create", "--start=2026-01-02", "--end=2026-01-01", "--tasks=1"),
            1,
            "after its start",
        ),
    ],
)
def test_a_wrong_call_is_one_clear_line(
    cli: Cli, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = cli.run(*arguments, expect=code)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_variable_is_named(cli: Cli) -> None:
    cli.environment["OPSPIPE_CHUNK_ROWS"] = "many"
    assert "OPSPIPE_CHUNK_ROWS" in cli.run("jobs", expect=1).stderr


def test_an_analysis_without_guidelines_is_refused_at_once(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\nthe first task of all\n")
    done = cli.run("ingest", tmp_path / "a.csv", *INTO_P, "--analyze", expect=1)
    assert "opspipe guidelines" in done.stderr
    assert cli.json("jobs") == []


def test_settings_are_kept_and_secrets_are_not_shown(cli: Cli) -> None:
    cli.run("settings", "set", "llm_model", "some-model")
    cli.run("settings", "set", "openrouter_key", "sk-very-secret")
    shown = cli.run("settings", "list", "--json").stdout
    assert json.loads(shown) | {"llm_model": "some-model", "openrouter_key": "(set)"} == json.loads(shown)
    assert "sk-very-secret" not in shown
    assert "512 dimensions" in cli.run("settings", "test").stdout


def test_the_database_is_upgraded_and_checked(cli: Cli) -> None:
    cli.run("db", "upgrade")
    assert "as the models say" in cli.run("db", "check").stdout


def test_doctor_says_what_is_missing(cli: Cli) -> None:
    findings = {
        str(finding["part"]): finding for finding in json.loads(cli.run("doctor", "--json", expect=1).stdout)
    }
    assert findings["broker"]["is_well"] is False
    assert "opspipe up" in findings["broker"]["message"]
    assert cli.run("db", "upgrade")


def test_up_runs_everything_and_ctrl_c_stops_all_of_it(
    cli: Cli, up: "subprocess.Popen[str]", tmp_path: Path, wait: Wait
) -> None:
    assert up.stdout is not None
    lines = [up.stdout.readline() for _ in range(4)]
    token = re.search(r"otk_[0-9a-f]{64}", "".join(lines))
    assert token, lines
    port, flower_port = cli.environment["OPSPIPE_PORT"], cli.environment["OPSPIPE_FLOWER_PORT"]

    def status() -> dict[str, object]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=5) as answer:
                found: dict[str, object] = json.load(answer)
                return found
        except OSError:  # not there yet, or too slow for now
            return {}

    wait(lambda: status().get("workers") == 3, seconds=60, what="three workers")
    password = (cli.home / "flower.password").read_text()
    wait(lambda: _flower_workers(flower_port, password) == 3, seconds=60, what="Flower's three workers")

    write_guidelines_pdf(tmp_path / "g.pdf")
    write_sample_csv(tmp_path / "sample.csv", rows=100)
    assert "12 rules" in cli.run("guidelines", "p", tmp_path / "g.pdf").stdout
    done = cli.run("ingest", tmp_path / "sample.csv", *INTO_P, "--analyze", "--wait")
    assert done.stdout.count("COMPLETED") == 2

    up.send_signal(signal.SIGINT)
    up.communicate(timeout=60)
    assert up.returncode == 0
    assert cli.processes() == []


def _flower_workers(port: str, password: str) -> int:
    credentials = b64encode(f"admin:{password}".encode()).decode()
    question = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/workers?refresh=1", headers={"Authorization": f"Basic {credentials}"}
    )
    try:
        with urllib.request.urlopen(question, timeout=10) as answer:
            return len(json.load(answer))
    except OSError:  # not there yet, or too slow for now
        return 0


def test_up_that_was_killed_leaves_no_process_behind(
    cli: Cli, up: "subprocess.Popen[str]", wait: Wait
) -> None:
    assert up.stdout is not None
    assert "/api/status" in up.stdout.readline()
    up.kill()
    up.communicate()
    wait(lambda: cli.processes() == [], seconds=30, what="the end of every process")


def test_rejected_rows_are_written_corrected_and_ingested(cli: Cli, tmp_path: Path) -> None:
    batch, rejects = tmp_path / "a.csv", tmp_path / "rejects.csv"
    batch.write_text("id,prompt,note\n1,the first task of all,x\n2,,=x\n")
    assert "1 saved" in cli.run("ingest", batch, *INTO_P, "--no-embed", "--wait").stdout
    (job,) = cli.json("jobs")
    written = cli.run("rejects", str(job["id"])).stdout
    assert written == "opspipe_line,opspipe_reason,id,prompt,note\n3,Empty Content,2,,'=x\n"

    cli.run("rejects", str(job["id"]), "-o", rejects)
    rejects.write_text(rejects.read_text().replace("2,,", "2,now it has a content,"))
    assert "1 saved" in cli.run("ingest", rejects, *INTO_P, "--no-embed", "--wait").stdout


def test_a_batch_by_url_is_ingested(cli: Cli, site: Site) -> None:
    url = site.give("/tasks.json", b'[{"id": 1, "prompt": "the first task of all"}, 5]')
    cli.environment["OPSPIPE_ALLOW_PRIVATE_URLS"] = "true"
    done = cli.run("ingest", url, *INTO_P, "--no-embed", "--wait")
    assert "1 saved" in done.stdout
    assert "Malformed Row" in done.stdout

    cli.environment["OPSPIPE_ALLOW_PRIVATE_URLS"] = "false"
    refused = cli.run("ingest", url, *INTO_P, "--no-embed", "--force", "--wait", expect=1)
    assert "no public address" in refused.stderr


def test_a_file_that_is_not_there_is_a_wrong_call_and_submits_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt\nthe first task of all\n")
    done = cli.run("ingest", tmp_path / "a.csv", tmp_path / "b.csv", *INTO_P, expect=2)
    assert "b.csv" in done.stderr
    assert cli.json("jobs") == []
