"""The analyze stage: one active analysis a project, exact counts, and retries that count once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.analyze import start_analysis, start_due_analyses
from pipeline.analyze.coverage import assess_coverage
from pipeline.analyze.review import RecordText
from pipeline.database import transaction
from pipeline.errors import ConflictError, FatalError, InputError
from pipeline.ingest.submit import Submission
from pipeline.jobs import cancel_job, retry_job
from pipeline.jobviews import JobView, view_job
from pipeline.ledger import ChunkRef
from pipeline.projects import ProjectRef, set_guidelines
from pipeline.runner import publish_next, run_chunk
from pipeline.sample import write_guidelines_pdf
from schemas.enums import AnalysisScope, JobStatus
from schemas.options import AnalysisOptions
from schemas.report import AlignmentReport

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]
CSV = "prompt\n" + "".join(f"write the story number {number}\n" for number in range(50))

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.fixture
def ready(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll, tmp_path: Path
) -> ProjectRef:
    """A project with guidelines and fifty records."""
    write_guidelines_pdf(tmp_path / "g.pdf")
    set_guidelines(session, project.id, (tmp_path / "g.pdf").read_bytes(), file_name="g.pdf")
    session.commit()
    run_all(submit(CSV))
    return project


def view(job_id: str) -> JobView:
    with transaction() as session:
        return view_job(session, job_id)


def run(refs: list[ChunkRef]) -> None:
    while refs:
        refs.extend(run_chunk(refs.pop(0)))


def start(session: Session, project: ProjectRef, scope: AnalysisScope = AnalysisScope.MISSING) -> ChunkRef:
    plan = start_analysis(session, project.id, AnalysisOptions(scope=scope)).plan
    session.commit()
    return plan


def test_a_second_analysis_is_refused_and_told_of_the_first(session: Session, ready: ProjectRef) -> None:
    first = start(session, ready)
    with pytest.raises(ConflictError, match=first.job_id):
        start_analysis(session, ready.id, AnalysisOptions())


def test_without_guidelines_there_is_nothing_to_hold_against(session: Session, project: ProjectRef) -> None:
    with pytest.raises(InputError, match="opspipe guidelines"):
        start_analysis(session, project.id, AnalysisOptions())


def test_other_guidelines_make_results_stale(session: Session, ready: ProjectRef) -> None:
    run([start(session, ready)])
    session.execute(text("UPDATE alignments SET guidelines_sha256 = 'other' WHERE score > 0"))
    session.commit()
    stale = session.scalar(text("SELECT count(*) FROM alignments WHERE guidelines_sha256 = 'other'"))
    plan = start(session, ready, AnalysisScope.STALE)
    run([plan])
    assert view(plan.job_id).processed_count == stale > 0


def test_an_analysis_that_was_cancelled_goes_on_with_a_retry(session: Session, ready: ProjectRef) -> None:
    plan = start(session, ready)
    run_chunk(run_chunk(plan)[0])
    with transaction() as opened:
        cancel_job(opened, plan.job_id)
    assert (view(plan.job_id).status, view(plan.job_id).processed_count) == (JobStatus.CANCELLED, 20)
    with transaction() as opened:
        retry_job(opened, plan.job_id)
    run(publish_next(plan.job_id, 10))
    assert (view(plan.job_id).status, view(plan.job_id).processed_count) == (JobStatus.COMPLETED, 50)


def test_a_retry_beside_another_active_analysis_is_refused(session: Session, ready: ProjectRef) -> None:
    first = start(session, ready)
    with transaction() as opened:
        cancel_job(opened, first.job_id)
    start(session, ready)
    with transaction() as opened, pytest.raises(ConflictError, match="another job"):
        retry_job(opened, first.job_id)
    assert view(first.job_id).status == JobStatus.CANCELLED


class Failing:
    """The local measure, until it is told to fail."""

    error: Exception | None = None

    def __call__(self, records: Sequence[RecordText], rules: Sequence[str]) -> list[AlignmentReport]:
        if self.error:
            raise self.error
        return assess_coverage(records, rules)


@pytest.fixture
def reviewer(monkeypatch: pytest.MonkeyPatch) -> Failing:
    made = Failing()
    monkeypatch.setattr("pipeline.analyze.reviewers.assess_coverage", made)
    monkeypatch.setattr("pipeline.runner._delay", lambda _attempt: 0.0)
    return made


def test_a_given_up_batch_counts_as_processed_and_a_retry_counts_it_once(
    session: Session, ready: ProjectRef, reviewer: Failing
) -> None:
    plan = start(session, ready)
    chunks = run_chunk(plan)
    reviewer.error = ZeroDivisionError("a fault")
    for _ in range(5):
        for ref in chunks:
            run_chunk(ref)
    job = view(plan.job_id)
    assert (job.status, job.processed_count) == (JobStatus.FAILED, 50)
    assert session.scalar(text("SELECT count(*) FROM record_failures")) == 50
    reviewer.error = None
    with transaction() as opened:
        retry_job(opened, plan.job_id)
    assert view(plan.job_id).processed_count == 0
    run(publish_next(plan.job_id, 10))
    assert (view(plan.job_id).status, view(plan.job_id).processed_count) == (JobStatus.COMPLETED, 50)
    assert session.scalar(text("SELECT count(*) FROM record_failures")) == 0


def test_a_fatal_error_fails_the_job_at_once_with_its_words(
    session: Session, ready: ProjectRef, reviewer: Failing
) -> None:
    plan = start(session, ready)
    reviewer.error = FatalError("the key is refused: set another one")
    run(run_chunk(plan))
    assert (view(plan.job_id).status, view(plan.job_id).error) == (JobStatus.FAILED, str(reviewer.error))


def test_an_analysis_that_was_asked_for_with_a_batch_starts_once_and_when_its_turn_comes(
    session: Session, ready: ProjectRef, submit: Submit
) -> None:
    active = start(session, ready)
    asked = submit(CSV, force=True, analyze=True)
    run([asked.plan])
    assert start_due_analyses(session) == []
    session.commit()
    run([active])
    follower = view(asked.job_id).follower_id
    assert follower is not None
    assert view(follower).status == JobStatus.COMPLETED
    assert start_due_analyses(session) == []
