"""A large load lets small jobs in between: at which moments, whom, and what stays exact."""

import io
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline import ledger
from pipeline.courtesy import give_way, giving_way
from pipeline.database import transaction
from pipeline.errors import TransientError
from pipeline.ingest import load
from pipeline.ingest.submit import Submission, submit_csv
from pipeline.jobviews import JobView, view_job
from pipeline.ledger import PLAN, ChunkRef
from pipeline.projects import ensure_project
from pipeline.runner import run_chunk
from schemas.enums import RecordType, Stage
from schemas.options import IngestOptions
from tasks.work import work_on

LARGE = 1024**2


@pytest.fixture
def project_id(session: Session) -> str:
    project = ensure_project(session, "demo")
    session.commit()
    return project.id


@pytest.fixture
def submit(project_id: str) -> Callable[[range], Submission]:
    def _submit(numbers: range) -> Submission:
        lines = "".join(f"t{number},write the story number {number}\n" for number in numbers)
        options = IngestOptions(record_type=RecordType.TASK, embed=False)
        source = io.BytesIO(f"task_id,prompt\n{lines}".encode())
        return submit_csv(project_id, source, file_name="batch.csv", options=options, force=True)

    return _submit


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask at every occasion."""
    monkeypatch.setattr("pipeline.courtesy._ASK_SECONDS", 0.0)


def view(job_id: str) -> JobView:
    with transaction() as session:
        return view_job(session, job_id)


def ended_at(session: Session, job_id: str) -> object:
    question = text("SELECT max(ended_at) FROM work_chunks WHERE job_id = :job_id")
    return session.scalar(question, {"job_id": job_id})


def test_small_work_is_asked_for_now_and_then_and_gives_way_to_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, calls = [100.0], []
    monkeypatch.setattr("pipeline.courtesy.time.monotonic", lambda: now[0])

    def let_in() -> None:
        calls.append(now[0])
        now[0] += 5.0
        give_way()

    give_way()  # nobody asked for it
    with giving_way(let_in):
        give_way()
        now[0] += 0.3
        give_way()
        give_way()
        now[0] += 0.2
        give_way()
        now[0] += 0.1
        give_way()
    give_way()
    assert calls == [100.3, pytest.approx(105.6)]


@pytest.fixture(params=["while it reads", "while it copies"])
def moment(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    always: None,  # noqa: ARG001 - it must run
) -> None:
    """Leave the large load only one of its two occasions."""
    other = "_copy" if request.param == "while it reads" else "_normalize"
    work = getattr(load, other)

    def work_alone(*arguments: object) -> object:
        with giving_way(lambda: None):
            return work(*arguments)

    monkeypatch.setattr(load, other, work_alone)


@pytest.mark.usefixtures("moment")
def test_a_small_job_is_done_in_the_middle_of_a_large_chunk(
    session: Session, submit: Callable[[range], Submission]
) -> None:
    large = submit(range(2_000))
    run_chunk(large.plan)
    small = submit(range(5_000, 5_010))
    work_on(ChunkRef(large.job_id, Stage.LOAD, 1))
    for submission, count in ((large, 2_000), (small, 10)):
        job = view(submission.job_id)
        assert (job.status, job.total_records, job.saved_count) == ("COMPLETED", count, count)
    assert ended_at(session, small.job_id) < ended_at(session, large.job_id)  # type: ignore[operator]  # moments
    assert session.scalar(text("SELECT count(*) FROM work_chunks WHERE attempts <> 1")) == 0


@pytest.mark.usefixtures("moment")
def test_of_two_with_the_same_identities_the_small_job_was_first(
    session: Session, submit: Callable[[range], Submission]
) -> None:
    large = submit(range(2_000))
    run_chunk(large.plan)
    small = submit(range(1_990, 2_010))
    work_on(ChunkRef(large.job_id, Stage.LOAD, 1))
    counts = {job.id: (job.saved_count, job.skipped_count) for job in map(view, (large.job_id, small.job_id))}
    assert counts == {large.job_id: (1_990, 10), small.job_id: (20, 0)}
    assert session.scalar(text("SELECT count(*) FROM data_records")) == 2_010


@pytest.mark.usefixtures("always")
def test_a_database_that_cannot_be_asked_for_small_jobs_stops_no_load(
    submit: Callable[[range], Submission], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_beside: ChunkRef) -> ChunkRef | None:
        raise TransientError("the database is busy")

    monkeypatch.setattr("tasks.work.find_small", fail)
    large = submit(range(600))
    run_chunk(large.plan)
    work_on(ChunkRef(large.job_id, Stage.LOAD, 1))
    assert view(large.job_id).status == "COMPLETED"


def test_let_in_is_the_small_job_that_waits_longest(
    session: Session, submit: Callable[[range], Submission]
) -> None:
    large, first, _ = (submit(range(start, start + 9)) for start in (0, 100, 200))

    def found(max_bytes: int = LARGE) -> ChunkRef | None:
        return ledger.find_small(session, beside=large.plan, max_bytes=max_bytes)

    assert found() == ChunkRef(first.job_id, Stage.LOAD, PLAN)
    assert found(max_bytes=10) is None
    run_chunk(first.plan)
    assert found() == ChunkRef(first.job_id, Stage.LOAD, 1)


@pytest.mark.parametrize(
    "change",
    [
        "state = 'LEASED', leased_until = now()",
        "attempts = 1",
        "not_before = now()",
        "state = 'DONE'",
        "stage = 'vectorize'",
    ],
)
def test_not_let_in_is_what_is_begun_tried_before_put_off_ended_or_of_another_stage(
    session: Session, submit: Callable[[range], Submission], change: str
) -> None:
    large, small = submit(range(9)), submit(range(100, 109))
    session.execute(
        text("INSERT INTO work_stages (job_id, stage) VALUES (:job_id, 'vectorize')"),
        {"job_id": small.job_id},
    )
    session.execute(
        text(f"UPDATE work_chunks SET {change} WHERE job_id = :job_id"),  # noqa: S608 - our own texts
        {"job_id": small.job_id},
    )
    assert ledger.find_small(session, beside=large.plan, max_bytes=LARGE) is None
