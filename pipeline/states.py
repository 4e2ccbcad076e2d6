"""The states of a job and the one function that changes them.

Which transition may happen is one table (contract.md, section 6); a change is a conditional UPDATE, and an
UPDATE that finds no row is an answer, not an error.
"""

from collections.abc import Mapping

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from schemas.enums import JobKind, JobStatus, Stage
from schemas.reference import AnalyticsJob, IngestJob, Project

S = JobStatus

UNFINISHED = frozenset({S.PENDING, S.PROCESSING, S.QUEUED_FOR_VEC, S.VECTORIZING})
ENDED = frozenset({S.COMPLETED, S.FAILED, S.CANCELLED})

# From each state, the states a job may go to. FAILED and CANCELLED are left by `retry` alone.
TRANSITIONS: Mapping[JobKind, Mapping[JobStatus, frozenset[JobStatus]]] = {
    JobKind.INGEST: {
        S.PENDING: frozenset({S.PROCESSING, S.FAILED, S.CANCELLED}),
        S.PROCESSING: frozenset({S.QUEUED_FOR_VEC, S.COMPLETED, S.FAILED, S.CANCELLED}),
        S.QUEUED_FOR_VEC: frozenset({S.VECTORIZING, S.FAILED, S.CANCELLED}),
        S.VECTORIZING: frozenset({S.COMPLETED, S.FAILED, S.CANCELLED}),
        S.COMPLETED: frozenset(),
        S.FAILED: frozenset({S.PENDING, S.PROCESSING, S.QUEUED_FOR_VEC, S.VECTORIZING}),
        S.CANCELLED: frozenset({S.PENDING, S.PROCESSING, S.QUEUED_FOR_VEC, S.VECTORIZING}),
    },
    JobKind.ANALYTICS: {
        S.PENDING: frozenset({S.PROCESSING, S.FAILED, S.CANCELLED}),
        S.PROCESSING: frozenset({S.COMPLETED, S.FAILED, S.CANCELLED}),
        S.COMPLETED: frozenset(),
        S.FAILED: frozenset({S.PENDING, S.PROCESSING}),
        S.CANCELLED: frozenset({S.PENDING, S.PROCESSING}),
    },
}

# The state that says "this stage is planned and under way".
RUNNING: Mapping[Stage, JobStatus] = {
    Stage.LOAD: S.PROCESSING,
    Stage.VECTORIZE: S.VECTORIZING,
    Stage.COMPARE: S.VECTORIZING,
    Stage.ANALYZE: S.PROCESSING,
}
# The state of a job whose stage waits for its plan.
WAITING: Mapping[Stage, JobStatus] = {
    Stage.LOAD: S.PENDING,
    Stage.VECTORIZE: S.QUEUED_FOR_VEC,
    # The reference knows no state for it: to its clients it is the end of vectorizing.
    Stage.COMPARE: S.VECTORIZING,
    Stage.ANALYZE: S.PENDING,
}

JobTable = type[IngestJob] | type[AnalyticsJob]


def job_table(kind: JobKind) -> JobTable:
    """Give the reference table that holds jobs of this kind."""
    return IngestJob if kind is JobKind.INGEST else AnalyticsJob


def sources_of(kind: JobKind, target: JobStatus) -> list[JobStatus]:
    """List the states from which a job may come to `target`."""
    return [source for source, targets in TRANSITIONS[kind].items() if target in targets]


def lock_job(session: Session, kind: JobKind, job_id: str) -> JobStatus | None:
    """Lock the job's row until the transaction ends and give its status; None where it is gone.

    Whoever changes a job and its chunks takes this lock first: one order of locks, no deadlock. Before it the
    project is kept from being deleted, because a deletion begins there and ends at the chunks.
    """
    table = job_table(kind)
    of_job = select(Project.id).join(table, table.project_id == Project.id).where(table.id == job_id)
    session.execute(of_job.with_for_update(of=Project, read=True, key_share=True))
    status = session.scalar(select(table.status).where(table.id == job_id).with_for_update())
    return None if status is None else JobStatus(status)


def change_status(
    session: Session,
    kind: JobKind,
    job_id: str,
    target: JobStatus,
    *,
    leaving: JobStatus | None = None,
    error: str | None = None,
) -> bool:
    """Move a job to `target` if the table of transitions allows it from where it is.

    Args:
        session: the transaction to do it in.
        kind: which of the two job tables.
        job_id: the job.
        target: the new status.
        leaving: the one status that may be left; None for every status that allows the transition.
        error: the job's error text from now on; None clears it.

    Returns:
        False where the job is gone or in a state that does not allow this: somebody else was first.
    """
    sources = sources_of(kind, target)
    if leaving is not None:
        sources = [source for source in sources if source is leaving]
    table = job_table(kind)
    changed = session.execute(
        update(table)
        .where(table.id == job_id, table.status.in_(sources))
        .values(status=target, error=error, updated_at=func.timezone("utc", func.now()))
        .returning(table.id)
        .execution_options(synchronize_session=False)
    )
    return changed.first() is not None
