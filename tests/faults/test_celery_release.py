"""Which releases of Celery may be used: those whose busy workers live through restarts of the broker.

The supervisor starts a worker again that ends, so jobs complete with other releases too. To try one, put a
folder with it (`pip install --target FOLDER --no-deps celery==X kombu==Y`) first in PYTHONPATH and run this.
"""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import celery
import kombu
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.settings import get_settings
from tasks.workers import count_workers
from tests.faults.guarded import wait_for
from tests.faults.installation import Installation
from tests.faults.job import check_everything, count_repeats, submit

_RELEASE = f"Celery {celery.__version__} with kombu {kombu.__version__} (see requirements/runtime.in)"
_RESTARTS = 3
# A chunk takes some such calls, and so outlasts a restart of the broker and the worker's finding it again.
_CALL_SECONDS = 3.0
_WORKERS = ("worker-ingest", "worker-ai", "worker-schedule")
_NOW = text("SELECT clock_timestamp()")
_CHUNKS = text(
    "SELECT leased_by, job_id, stage, number FROM work_chunks WHERE state = 'LEASED' AND number > 0"
    " AND started_at > :since AND stage IN ('vectorize', 'analyze')"
)

pytestmark = pytest.mark.timeout(300)


class Workers:
    """The very processes that run at the beginning; one that its supervisor starts again is none of them."""

    def __init__(self, installation: Installation, session: Session) -> None:
        self._installation, self._session = installation, session
        self._processes = {name: installation.wait_until_runs(name) for name in _WORKERS}

    def check(self) -> None:
        """See that all of them still run."""
        running = {name: self._installation.process(name) for name in _WORKERS}
        ended = [name for name, process in self._processes.items() if running[name] != process]
        assert not ended, (
            f"{_RELEASE} does not survive restarts of the broker under busy workers: {', '.join(ended)} ended"
        )

    def wait_until_busy(self) -> dict[str, tuple[str, ...]]:
        """Wait until each process of the pool has a chunk that it has taken since now; gives these chunks."""
        since, found = self._session.scalar(_NOW), dict[str, tuple[str, ...]]()

        def are_busy() -> bool:
            found.clear()
            found.update(self._chunks(since))
            return len(found) == get_settings().ai_processes

        wait_for(are_busy, f"{_RELEASE}: every process of the pool takes chunks")
        return found

    def wait_until_they_answer(self) -> None:
        """Wait until all of them have found the broker again."""

        def do_answer() -> bool:
            self.check()
            with suppress(ConnectionError):
                return count_workers() == len(_WORKERS)
            return False

        wait_for(do_answer, f"{_RELEASE}: all workers find the broker again")

    def still_have(self, chunks: dict[str, tuple[str, ...]]) -> bool:
        """Tell whether these chunks are still worked on."""
        return self._chunks(None) == chunks

    def _chunks(self, since: datetime | None) -> dict[str, tuple[str, ...]]:
        self.check()
        self._session.rollback()
        rows = self._session.execute(_CHUNKS, {"since": since or datetime.min.replace(tzinfo=UTC)})
        return {holder: tuple(map(str, chunk)) for holder, *chunk in rows}


def test_busy_workers_go_on_when_the_broker_restarts(
    installation: Installation, session: Session, guidelines: Path
) -> None:
    workers, behaviour = Workers(installation, session), installation.ai_server.behaviour
    job, pool = submit(guidelines), set[str]()
    for _ in range(_RESTARTS):
        behaviour.latency = _CALL_SECONDS
        chunks = workers.wait_until_busy()
        installation.broker.server.process().terminate()
        workers.wait_until_they_answer()
        assert workers.still_have(chunks), "the chunks were too short for this test"
        # Each process holds a message that it cannot acknowledge where it had it from.
        behaviour.latency = 0.0
        pool |= chunks.keys()
    workers.wait_until_busy()
    wait_for(job.is_ended, "the end of the job")
    workers.check()
    assert len(pool) == get_settings().ai_processes
    check_everything(session, job)
    assert count_repeats(installation.ai_server) == (0, 0)
