"""The right to work on a chunk: taken, renewed, given back, or used up by the chunk's end."""

from dataclasses import replace
from typing import Any

from sqlalchemy import case, func, or_, select, update
from sqlalchemy.orm import Session

from pipeline.ledger.conditions import from_now, is_chunk, is_expired, is_held, is_stopping
from pipeline.ledger.work import MAX_ATTEMPTS, ChunkRef, Claim, LeaseLostError
from schemas.enums import ChunkState, JobKind
from schemas.own import WorkChunk, WorkJob, WorkStage


def claim(session: Session, ref: ChunkRef, *, worker: str, lease_seconds: float) -> Claim | None:
    """Take the chunk's lease, if it is free and due.

    Returns:
        None where there is nothing to do: the chunk is done, stopped, leased, not due, used up or gone.
    """
    is_free = or_(WorkChunk.state == ChunkState.PENDING, is_expired())
    is_due = or_(WorkChunk.not_before.is_(None), WorkChunk.not_before <= func.now())
    row = session.execute(
        update(WorkChunk)
        .where(is_chunk(ref), is_free, is_due, WorkChunk.attempts < MAX_ATTEMPTS, ~is_stopping(ref.job_id))
        .values(
            state=ChunkState.LEASED,
            fence=WorkChunk.fence + 1,
            attempts=WorkChunk.attempts + 1,
            leased_by=worker,
            leased_until=from_now(lease_seconds),
            started_at=func.clock_timestamp(),
        )
        .returning(WorkChunk.fence, WorkChunk.attempts, WorkChunk.span, WorkChunk.record_count)
        .execution_options(synchronize_session=False)
    ).first()
    if row is None:
        return None
    job, context = session.execute(
        select(WorkJob, WorkStage.context)
        .join(WorkStage, WorkStage.job_id == WorkJob.job_id)
        .where(WorkJob.job_id == ref.job_id, WorkStage.stage == ref.stage)
    ).one()
    kind = JobKind.INGEST if job.ingest_job_id else JobKind.ANALYTICS
    return Claim(
        ref, kind, row.fence, row.attempts, row.span, row.record_count, context, job.options, job.upload_id
    )


def renew(session: Session, held: Claim, *, lease_seconds: float) -> bool:
    """Prolong the lease; False where it is lost."""
    renewed = session.execute(
        update(WorkChunk)
        .where(is_held(held))
        .values(leased_until=from_now(lease_seconds))
        .returning(WorkChunk.number)
        .execution_options(synchronize_session=False)
    )
    return renewed.first() is not None


def look_again(session: Session, held: Claim) -> Claim:
    """Give the claim on what is left of a chunk, which nobody else can take before this transaction ends.

    Raises:
        LeaseLostError: it is not held any more.
    """
    row = session.execute(
        select(WorkChunk.span, WorkChunk.record_count).where(is_held(held)).with_for_update()
    ).first()
    if row is None:
        raise LeaseLostError(f"the lease of {held.ref} was lost")
    return replace(held, span=row.span, record_count=row.record_count)


def end_chunk(session: Session, held: Claim, **values: Any) -> None:  # noqa: ANN401 - column values
    """End a held chunk with these columns; a lease that was lost is a LeaseLostError."""
    ended = session.execute(
        update(WorkChunk)
        .where(is_held(held))
        # The clock, not the transaction's start, which lies before the work. Who did it stays to be seen.
        .values(leased_until=None, ended_at=func.clock_timestamp(), **values)
        .returning(WorkChunk.number)
        .execution_options(synchronize_session=False)
    )
    if ended.first() is None:
        raise LeaseLostError(f"the lease of {held.ref} was lost")


def release(session: Session, held: Claim, *, delay: float, error: str, is_counted: bool) -> bool:
    """Give a chunk back to be tried again after `delay` seconds; False where the lease was lost.

    Args:
        session: the transaction to do it in.
        held: the claim that is given back.
        delay: seconds before it may be claimed again.
        error: why, for those who look at a job that does not move.
        is_counted: whether this attempt counts against the chunk; waiting for a service does not.
    """
    released = session.execute(
        update(WorkChunk)
        .where(is_held(held))
        .values(
            state=case((is_stopping(held.ref.job_id), ChunkState.STOPPED), else_=ChunkState.PENDING),
            attempts=WorkChunk.attempts - (0 if is_counted else 1),
            leased_by=None,
            leased_until=None,
            not_before=from_now(delay),
            published_at=None,
            publications=0,
            error=error,
        )
        .returning(WorkChunk.number)
        .execution_options(synchronize_session=False)
    )
    return released.first() is not None
