"""The API under load by wrk, beside a Flask route that does nothing."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import stand
from sqlalchemy import text

from cli.services import web
from pipeline.database import transaction
from pipeline.ingest.submit import submit_csv
from pipeline.projects import ensure_project
from pipeline.servers.embedded import free_port
from pipeline.settings import get_settings
from pipeline.tokens import ensure_first_token
from schemas.enums import RecordType
from schemas.options import IngestOptions
from tasks import publish

_FOLDER = Path(__file__).parent
_SECONDS = 8
_CONNECTIONS = 8
_WORKERS = 2
# In the unit that wrk chooses, in milliseconds.
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True)
class Rate:
    """Requests a second, and within how many milliseconds 99 of 100 were answered; how many went wrong."""

    per_second: float
    p99_ms: float
    wrong: int


@dataclass(frozen=True)
class WebFigures:
    """Runs by what was asked: each round asks for everything in turn."""

    runs: Mapping[str, Sequence[Rate]]
    accepted: int
    lost: int

    def ratio(self, name: str) -> float:
        """Give the median of the rates beside the constant's of the same round."""
        pairs = zip(self.runs[name], self.runs["constant"], strict=True)
        return float(np.median([run.per_second / constant.per_second for run, constant in pairs]))


def measure_web(large: Path, rounds: int) -> WebFigures:
    """Ask for each route in turn, by itself and while a large file is loaded.

    Args:
        large: a file that takes longer to load than one round's second half.
        rounds: how many times.
    """
    if shutil.which("wrk") is None:
        raise SystemExit("this bench needs wrk: apt-get install wrk, brew install wrk")
    with transaction() as session:
        token = str(ensure_first_token(session))
        project_id = ensure_project(session, "bench").id
    answered = stand.HOME / "answered"
    environment = os.environ | {"TOKEN": token, "PROJECT": project_id, "ANSWERED": str(answered)}
    runs: dict[str, list[Rate]] = {}
    jobs: list[str] = []
    with ExitStack() as stack:
        constant = stack.enter_context(_served("constant:app", _FOLDER))
        api = stack.enter_context(_served("api:create_app()", stand.ROOT))
        stack.enter_context(stand.workers(_WORKERS, is_watched=False))

        def ask(name: str, url: str, *options: str) -> None:
            runs.setdefault(name, []).append(_wrk(url, environment, *options))

        def ask_all(beside: str) -> None:
            bearer = ("-H", f"Authorization: Bearer {token}")
            ask(f"health{beside}", f"{api}/api/status")
            ask(f"status{beside}", f"{api}/api/ingest/status?jobId={job_id}", *bearer)
            ask(f"submit{beside}", f"{api}/api/ingest/csv", "-s", str(_FOLDER / "submit.lua"))
            jobs.extend(answered.read_text().split())

        for _ in range(rounds):
            job_id = _submit(project_id, large)
            _cancel(api, token, job_id)
            _wait_until_idle()
            ask("constant", f"{constant}/")
            ask_all("")
            _wait_until_idle()
            job_id = _submit(project_id, large)
            ask_all(", jobs running")
            _cancel(api, token, job_id)
        _wait_until_idle()
    with transaction() as session:
        known = set(session.scalars(text("SELECT id FROM ingest_jobs WHERE status = 'COMPLETED'")))
    return WebFigures(runs, len(jobs), len(set(jobs) - known))


@contextmanager
def _served(application: str, folder: Path) -> Iterator[str]:
    """Serve an application as `opspipe up` does; gives its address."""
    settings = get_settings().model_copy(update={"port": free_port()})
    command = [*web(settings, stand.HOME).command[:-1], application]
    url = f"http://127.0.0.1:{settings.port}"
    environment = os.environ | {"OPSPIPE_RATE_LIMIT": "10000000/minute", "PYTHONPATH": str(stand.ROOT)}
    with (stand.HOME / "web.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(200):
            time.sleep(0.1)
            with (
                suppress(OSError),
                urllib.request.urlopen(f"{url}/api/status" if folder == stand.ROOT else url),  # noqa: S310 - ours
            ):
                break
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wrk(url: str, environment: Mapping[str, str], *options: str) -> Rate:
    command = ["wrk", "-t1", f"-c{_CONNECTIONS}", f"-d{_SECONDS}s", "--latency", *options, url]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    slowest = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    if slowest is None or rate is None:
        raise SystemExit(f"wrk says something else than it used to: {said}")
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    broken = sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", said)))
    return Rate(
        float(rate[1]), float(slowest[1]) * _UNITS[slowest[2]], (int(wrong[1]) if wrong else 0) + broken
    )


def _submit(project_id: str, file: Path) -> str:
    options = IngestOptions(record_type=RecordType.TASK, embed=False)
    with file.open("rb") as source:
        submission = submit_csv(project_id, source, file_name=file.name, options=options, force=True)
    publish([submission.plan])
    return submission.job_id


def _cancel(api: str, token: str, job_id: str) -> None:
    body = json.dumps({"jobId": job_id}).encode()
    request = urllib.request.Request(f"{api}/api/ingest/cancel", body)  # noqa: S310 - ours
    request.add_header("Content-Type", "application/json")
    request.add_header("Authorization", f"Bearer {token}")
    urllib.request.urlopen(request).close()  # noqa: S310 - ours


def _wait_until_idle() -> None:
    unfinished = "SELECT count(*) FROM ingest_jobs WHERE status NOT IN ('COMPLETED', 'CANCELLED', 'FAILED')"
    while True:
        with transaction() as session:
            if not session.scalar(text(unfinished)):
                return
        time.sleep(0.5)


def report(found: WebFigures) -> str:
    """Write the table of docs/performance.md."""
    lines = [
        f"| {_CONNECTIONS} connections | requests/s, median | of the constant | p99, median | went wrong |"
    ]
    lines.append("|---|---|---|---|---|")
    for name, rates in found.runs.items():
        rate, p99 = (
            float(np.median([getattr(run, part) for run in rates])) for part in ("per_second", "p99_ms")
        )
        wrong = sum(run.wrong for run in rates)
        lines.append(f"| {name} | {rate:,.0f} | {found.ratio(name):.2f} | {p99:,.1f} ms | {wrong} |")
    lines.append(f"\n{found.accepted:,} batches were accepted, {found.lost} of them are not there.")
    return "\n".join(["", *lines, ""])
