"""What is done to jobs: cancelling, retrying."""

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from pipeline import ledger
from pipeline.ai import read_spent
from pipeline.audit import note_job
from pipeline.errors import ConflictError, InputError, NotFoundError
from pipeline.failures import count_failures, forget_failures, take_up_command
from pipeline.idempotency import claim_key
from pipeline.jobviews import resolve_job
from pipeline.states import RUNNING, WAITING, change_status, lock_job
from pipeline.uploads import find_upload
from schemas.enums import ChunkState, JobKind, JobStatus, Stage
from schemas.options import AnalysisOptions
from schemas.own import WorkChunk, WorkJob, WorkStage
from schemas.reference import AnalyticsJob


def _lock_resolved(session: Session, job_id: str) -> tuple[JobKind, str, JobStatus]:
    kind, full_id = resolve_job(session, job_id)
    status = lock_job(session, kind, full_id)
    if status is None:
        raise NotFoundError(f"job {full_id} was deleted at this moment")
    return kind, full_id, status


def cancel_job(session: Session, job_id: str) -> str:
    """Cancel an unfinished job; what is being worked on is rolled back at its commit. Gives the full id.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it has ended already.
    """
    kind, full_id, status = _lock_resolved(session, job_id)
    if not change_status(session, kind, full_id, JobStatus.CANCELLED):
        raise ConflictError(f"job {full_id} is {status} and cannot be cancelled", job_id=full_id)
    ledger.stop_job(session, full_id)
    note_job(session, "job.cancel", kind, full_id, status=status)
    return full_id


def retry_job(session: Session, job_id: str, *, budget_usd: float | None = None) -> str:
    """Take up what is unfinished or failed in a failed or cancelled job again. Gives the full id.

    Args:
        session: the transaction to do it in.
        job_id: the job, or an unambiguous beginning of its id.
        budget_usd: what an analysis may cost in all from now on, what it has cost already included; None
            leaves its budget as it is.

    Raises:
        NotFoundError: there is no such job, or its upload was removed before it was loaded.
        InputError: the job is no analysis and so has no budget.
        ConflictError: it is running or completed (then it says what takes up the records that failed), the
            project has another active analysis, or the budget is spent.
        KeyTakenError: the same request did it already (see `pipeline.idempotency`).
    """
    claim_key(session, resolve_job(session, job_id)[1])
    kind, full_id, status = _lock_resolved(session, job_id)
    if status not in {JobStatus.FAILED, JobStatus.CANCELLED}:
        hint = _failed_records_hint(session, kind, full_id) if status is JobStatus.COMPLETED else ""
        raise ConflictError(f"job {full_id} is {status}: only failed and cancelled ones are retried{hint}")
    stage = _unfinished_stage(session, full_id)
    if stage is None:
        raise ConflictError(f"job {full_id} is {status} and has no work on the ledger: submit it again")
    if stage.stage == Stage.LOAD:
        find_upload(session, full_id)
    _set_budget(session, kind, full_id, budget_usd)
    target = (WAITING if stage.planned_at is None else RUNNING)[Stage(stage.stage)]
    try:
        with session.begin_nested():
            change_status(session, kind, full_id, target)
    except IntegrityError as error:  # analytics_jobs_one_active
        raise ConflictError("the project is being analyzed by another job: wait for its end") from error
    _reopen(session, stage)
    note_job(session, "job.retry", kind, full_id, stage=stage.stage, budget_usd=budget_usd)
    return full_id


def _failed_records_hint(session: Session, kind: JobKind, job_id: str) -> str:
    """Say what takes up the records that failed in a completed job; empty where none did."""
    count = sum(count_failures(session, job_id).values())
    if not count:
        return ""
    records = "record" if count == 1 else "records"
    return f". `{take_up_command(session, kind, job_id)}` takes up the {count} {records} that failed in it"


def _set_budget(session: Session, kind: JobKind, job_id: str, budget_usd: float | None) -> None:
    if budget_usd is not None:
        if kind is not JobKind.ANALYTICS:
            raise InputError(f"job {job_id} is no analysis: only these have a budget")
        job = session.get_one(WorkJob, job_id)
        options = AnalysisOptions.model_validate(job.options | {"budget_usd": budget_usd})
        job.options = options.model_dump(mode="json")
        session.flush()
    budget, spent = _budget(session, job_id), read_spent(session, job_id).cost_usd or 0.0
    if budget is not None and spent >= budget:
        raise ConflictError(
            f"job {job_id} has cost {spent:.4g} USD and its budget is {budget:.4g} USD: "
            "give a larger one with `--budget` (budgetUsd)",
            job_id=job_id,
        )


def _budget(session: Session, job_id: str) -> float | None:
    budget = WorkJob.options["budget_usd"]
    return session.scalar(
        select(budget.as_float()).where(WorkJob.job_id == job_id, func.jsonb_typeof(budget) == "number")
    )


def _is_open() -> ColumnElement[bool]:
    """A chunk that a retry takes up: stopped, given up, or done with records that failed."""
    return or_(WorkChunk.state.in_([ChunkState.FAILED, ChunkState.STOPPED]), WorkChunk.failed_count > 0)


def _unfinished_stage(session: Session, job_id: str) -> WorkStage | None:
    """Give the stage that the job had come to.

    One before it may have records that failed, and is over all the same: what follows it is begun only once.
    """
    unfinished = select(WorkChunk.stage).where(WorkChunk.job_id == job_id, _is_open()).distinct()
    return session.scalar(
        select(WorkStage)
        .where(WorkStage.job_id == job_id, WorkStage.stage.in_(unfinished))
        .order_by(WorkStage.queued_at.desc())
        .limit(1)
    )


def _reopen(session: Session, stage: WorkStage) -> None:
    """Put the open chunks back, and take off the counters what they had put on them."""
    is_meant = (WorkChunk.job_id == stage.job_id, WorkChunk.stage == stage.stage, _is_open())
    ended, failed_chunks, done, failed = session.execute(
        select(
            func.count().filter(WorkChunk.state != ChunkState.STOPPED),
            func.count().filter(WorkChunk.state == ChunkState.FAILED),
            func.coalesce(func.sum(WorkChunk.done_count), 0),
            func.coalesce(func.sum(WorkChunk.failed_count), 0),
        ).where(*is_meant)
    ).one()
    session.execute(
        update(WorkStage)
        .where(WorkStage.job_id == stage.job_id, WorkStage.stage == stage.stage)
        .values(
            ended_chunk_count=WorkStage.ended_chunk_count - ended,
            failed_chunk_count=WorkStage.failed_chunk_count - failed_chunks,
            done_count=WorkStage.done_count - done,
            failed_count=WorkStage.failed_count - failed,
            ended_at=None,
        )
        .execution_options(synchronize_session=False)
    )
    if stage.stage == Stage.ANALYZE:
        session.execute(
            update(AnalyticsJob)
            .where(AnalyticsJob.id == stage.job_id)
            .values(processed_count=AnalyticsJob.processed_count - done - failed)
        )
    forget_failures(session, stage.job_id, stage.stage)
    session.execute(
        update(WorkChunk)
        .where(*is_meant)
        .values(
            state=ChunkState.PENDING,
            attempts=0,
            done_count=0,
            failed_count=0,
            not_before=None,
            published_at=None,
            publications=0,
            ended_at=None,
        )
        .execution_options(synchronize_session=False)
    )
