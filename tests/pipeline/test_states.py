"""The transitions of a job: the table, and that nothing outside it can happen."""

import itertools

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ids import new_cuid
from pipeline.projects import ProjectRef
from pipeline.states import TRANSITIONS, change_status, lock_job
from schemas.enums import JobKind, JobStatus
from schemas.reference import IngestJob

S = JobStatus
# contract.md, section 6, written out: the table in code is held against this one.
ALLOWED = {
    (S.PENDING, S.PROCESSING),
    (S.PROCESSING, S.QUEUED_FOR_VEC),
    (S.PROCESSING, S.COMPLETED),
    (S.QUEUED_FOR_VEC, S.VECTORIZING),
    (S.VECTORIZING, S.COMPLETED),
    *itertools.product((S.PENDING, S.PROCESSING, S.QUEUED_FOR_VEC, S.VECTORIZING), (S.FAILED, S.CANCELLED)),
    *itertools.product((S.FAILED, S.CANCELLED), (S.PENDING, S.PROCESSING, S.QUEUED_FOR_VEC, S.VECTORIZING)),
}


def test_the_table_of_transitions_is_that_of_the_contract() -> None:
    table = TRANSITIONS[JobKind.INGEST]
    assert {(source, target) for source in table for target in table[source]} == ALLOWED


@pytest.mark.parametrize(("source", "target"), list(itertools.product(JobStatus, JobStatus)))
def test_a_job_changes_exactly_where_the_table_allows_it(
    session: Session, project: ProjectRef, source: JobStatus, target: JobStatus
) -> None:
    job = IngestJob(id=new_cuid(), project_id=project.id, type="TASK", status=source)
    session.add(job)
    session.flush()
    is_allowed = (source, target) in ALLOWED
    assert change_status(session, JobKind.INGEST, job.id, target) is is_allowed
    stored = session.scalar(text("SELECT status FROM ingest_jobs WHERE id = :id"), {"id": job.id})
    assert stored == (target if is_allowed else source)


def test_a_change_that_names_another_state_to_leave_does_nothing(
    session: Session, project: ProjectRef
) -> None:
    job = IngestJob(id=new_cuid(), project_id=project.id, type="TASK", status=S.VECTORIZING)
    session.add(job)
    session.flush()
    assert not change_status(session, JobKind.INGEST, job.id, S.COMPLETED, leaving=S.PROCESSING)


def test_a_job_that_is_gone_has_no_status_and_does_not_change(session: Session) -> None:
    assert lock_job(session, JobKind.INGEST, "gone") is None
    assert not change_status(session, JobKind.INGEST, "gone", S.CANCELLED)
