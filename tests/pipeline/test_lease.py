"""Leases: work that is not wanted any more stops, however long it would have gone on."""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Protocol

import pytest

from pipeline.database import transaction
from pipeline.ingest.fetched import submit_url
from pipeline.ingest.submit import Submission
from pipeline.jobs import cancel_job
from pipeline.jobviews import view_job
from pipeline.lease import check_lease
from pipeline.projects import ProjectRef
from pipeline.removal import delete_job
from pipeline.runner import run_chunk
from pipeline.settings import get_settings
from pipeline.storage import FileStorage, get_storage
from schemas.enums import JobStatus, RecordType
from schemas.options import IngestOptions

Submit = Callable[..., Submission]
Wait = Callable[..., None]

CSV = "prompt\nthe first task of all\n"


class Site(Protocol):
    url: str
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]]


class EndlessFile(io.RawIOBase):
    """A file that goes on until it is told to stop, and counts its blocks."""

    def __init__(self) -> None:
        self.blocks, self.stopped = 0, threading.Event()

    def readable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = 0) -> int:  # noqa: ARG002 - back to the start is all that is asked
        self.blocks = 0
        return place

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


def cancel_while(submission: Submission, wait: Wait, is_under_way: Callable[[], bool]) -> None:
    """Cancel a job while it is being planned; returns when its worker has stopped."""
    stop_while(cancel_job, submission, wait, is_under_way)
    with transaction() as session:
        view = view_job(session, submission.job_id)
    assert (view.status, view.total_records) == (JobStatus.CANCELLED, 0)


def stop_while(
    stop: Callable[..., str], submission: Submission, wait: Wait, is_under_way: Callable[[], bool]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        plan = pool.submit(run_chunk, submission.plan)
        wait(is_under_way, what="the plan under way")
        with transaction() as session:
            stop(session, submission.job_id)
        wait(plan.done, what="the end of the plan")
    assert plan.result() == []


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_plan_stops_when_its_job_is_cancelled(
    submit: Submit, wait: Wait, request: pytest.FixtureRequest, encoding: str
) -> None:
    submission = submit(CSV, encoding=encoding)
    endless = request.getfixturevalue("endless")
    try:
        cancel_while(submission, wait, lambda: endless.blocks > 10)
    finally:
        endless.stopped.set()
    assert not [file.key for file in get_storage().list_files() if file.key.startswith(".incoming-")]


def test_a_plan_stops_when_its_job_is_deleted(
    submit: Submit, wait: Wait, request: pytest.FixtureRequest
) -> None:
    submission = submit(CSV)
    endless = request.getfixturevalue("endless")
    try:
        stop_while(delete_job, submission, wait, lambda: endless.blocks > 10)
    finally:
        endless.stopped.set()


@pytest.mark.usefixtures("endless")
def test_fetching_stops_when_the_job_is_cancelled(
    project: ProjectRef, wait: Wait, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSPIPE_ALLOW_PRIVATE_URLS", "true")
    get_settings.cache_clear()
    sent, is_over = [], threading.Event()

    def _answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        with suppress(OSError):  # nobody listens any more
            while not is_over.wait(0.01):
                request.wfile.write(b'{"prompt": "the same task over and over"}\n' * 10_000)
                sent.append(1)

    site.answers["/endless"] = _answer
    options = IngestOptions(record_type=RecordType.TASK, embed=False)
    submission = submit_url(project.id, f"{site.url}/endless", options=options)
    try:
        cancel_while(submission, wait, lambda: len(sent) > 10)
    finally:
        is_over.set()


def test_without_a_lease_there_is_nothing_to_check() -> None:
    check_lease()
