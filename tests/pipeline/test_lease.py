"""Leases: work that is not wanted any more stops, however long it would have gone on."""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.database import transaction
from pipeline.ingest.submit import Submission
from pipeline.jobs import cancel_job, view_job
from pipeline.lease import check_lease
from pipeline.removal import delete_job
from pipeline.runner import run_chunk
from pipeline.settings import get_settings
from pipeline.storage import FileStorage
from schemas.enums import JobStatus

Submit = Callable[..., Submission]
Wait = Callable[..., None]

CSV = "prompt\nthe first task of all\n"


class EndlessFile(io.RawIOBase):
    """A file that goes on until it is told to stop, and counts its blocks."""

    def __init__(self) -> None:
        self.blocks, self.stopped = 0, threading.Event()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self.stopped.wait(0.01):
            return b""
        self.blocks += 1
        line = b"the same task over and over\n"
        return (CSV.encode() if self.blocks == 1 else b"") + line * (abs(size) // (10 * len(line)))


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[EndlessFile]:
    """The submitted file goes on and on when it is planned; leases are renewed three times a second."""
    file = EndlessFile()
    monkeypatch.setenv("OPSPIPE_LEASE_SECONDS", "1")
    get_settings.cache_clear()
    monkeypatch.setattr(FileStorage, "open", lambda *_: file)
    yield file
    get_settings.cache_clear()


@pytest.mark.parametrize("stop", [cancel_job, delete_job])
def test_a_plan_stops_when_its_job_is_cancelled_or_deleted(
    submit: Submit,
    wait: Wait,
    request: pytest.FixtureRequest,
    stop: Callable[..., str],
) -> None:
    submission = submit(CSV)
    endless = request.getfixturevalue("endless")
    with ThreadPoolExecutor(1) as pool:
        try:
            plan = pool.submit(run_chunk, submission.plan)
            wait(lambda: endless.blocks > 10, what="the plan under way")
            with transaction() as session:
                stop(session, submission.job_id)
            wait(plan.done, what="the end of the plan")
        finally:
            endless.stopped.set()
    assert plan.result() == []
    if stop is cancel_job:
        with transaction() as session:
            view = view_job(session, submission.job_id)
        assert (view.status, view.total_records) == (JobStatus.CANCELLED, 0)


def test_without_a_lease_there_is_nothing_to_check() -> None:
    check_lease()
