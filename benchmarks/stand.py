"""The stand that benchmarks run on: servers and workers of its own in a temporary home, durable by default.

Import this before anything of opspipe: it says which home the settings are to have.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOME = Path(tempfile.mkdtemp(prefix="opspipe-bench-"))
HOME.chmod(0o755)  # PostgreSQL runs as another user where this one is root
os.environ |= {"OPSPIPE_HOME": str(HOME), "OPSPIPE_TEMPORARY": "true", "OPSPIPE_MAX_UPLOAD_BYTES": str(2**40)}

import psutil  # noqa: E402 - after the environment
from sqlalchemy import text  # noqa: E402

from pipeline import database  # noqa: E402
from pipeline.migrations import prepare_database  # noqa: E402
from pipeline.servers import endpoints, release  # noqa: E402
from tasks import app  # noqa: E402
from tasks.workers import count_workers  # noqa: E402

ROOT = Path(__file__).parents[1]
_TABLES = "projects, data_records, record_identities, ingest_jobs, work_jobs, uploads"
_SAMPLE_SECONDS = 0.05


@contextmanager
def servers() -> Iterator[None]:
    """Run PostgreSQL and Valkey; what they stored goes when the block ends."""
    try:
        endpoints()
        prepare_database()
        yield
    finally:
        database.forget_engine(close=True)
        release()
        shutil.rmtree(HOME, ignore_errors=True)


def empty() -> None:
    """Empty every table and let the disk catch up, so that no run pays for the one before."""
    with database.transaction() as session:
        session.execute(text(f"TRUNCATE {_TABLES} CASCADE"))
    shutil.rmtree(HOME / "uploads", ignore_errors=True)
    settle()


def settle() -> None:
    """Write what is to be written, so that a run starts on a quiet server."""
    engine = database.get_engine()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CHECKPOINT"))
    engine.dispose()


class Workers:
    """A Celery worker of the ingest queue: when its processes had chunks, and the most memory of one."""

    def __init__(self, process: subprocess.Popen[bytes], count: int) -> None:
        self._process, self._count = psutil.Process(process.pid), count
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._watch, self._listen)]
        self.idle_bytes = self.peak_bytes = 0
        self._turns: list[tuple[float, int]] = []

    def start_watching(self) -> None:
        """Begin to look at memory and events; the memory of now counts as idle."""
        self.idle_bytes = self.peak_bytes = self._largest()
        for thread in self._threads:
            thread.start()

    def stop_watching(self) -> None:
        """Look no more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def idle_share(self) -> float:
        """Give the share of time without a chunk, from the start of the first to that of the last."""
        turns = sorted(self._turns)
        last_start = max(moment for moment, step in turns if step > 0)
        idle = busy = 0.0
        active, before = 0, turns[0][0]
        for moment, step in turns:
            if moment > last_start:
                break
            idle += (self._count - active) * (moment - before)
            busy += active * (moment - before)
            active, before = active + step, moment
        return idle / (idle + busy) if idle + busy else 0.0

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, self._largest())

    def _largest(self) -> int:
        return max((child.memory_info().rss for child in self._process.children()), default=0)

    def _listen(self) -> None:
        names: dict[str, str] = {}

        def received(event: dict[str, Any]) -> None:
            names[event["uuid"]] = event["name"]

        starts: dict[str, float] = {}

        def turned(event: dict[str, Any]) -> None:
            if names.get(event["uuid"]) != "ingest.load_chunk":
                return
            if event["type"] == "task-started":
                starts[event["uuid"]] = event["timestamp"]
            elif (start := starts.pop(event["uuid"], None)) is not None:
                # Both or none of them: events may be lost, and then the time counts as idle.
                self._turns += [(start, 1), (event["timestamp"], -1)]

        handlers = {"task-received": received, "task-started": turned, "task-succeeded": turned}
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(connection, handlers=handlers)
            while not self._stop.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.5, wakeup=False)
                except TimeoutError:
                    continue


@contextmanager
def workers(count: int, *, queues: str = "ingest", is_watched: bool = True) -> Iterator[Workers]:
    """Run a worker of these queues with `count` processes; being watched costs some of the processor."""
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-Q", queues, "-c", str(count)]
    with (HOME / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "-l", "WARNING"], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
    try:
        while not count_workers():
            if process.poll() is not None:
                raise SystemExit(f"the worker did not start: {(HOME / 'worker.log').read_text()}")
        found = Workers(process, count)
        if is_watched:
            found.start_watching()
        yield found
        if is_watched:
            found.stop_watching()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
