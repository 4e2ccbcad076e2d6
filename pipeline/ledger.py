"""The ledger: who works on which chunk, with what outcome. The truth about work; the broker only hints at it.

A chunk is claimed in a short transaction, which hands out a fence number; its completion names that number
and is refused if another claim came after it. What a stage does and what follows it is not known here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, case, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pipeline.errors import PipelineError
from schemas.enums import ChunkState, JobKind, Stage
from schemas.own import WorkChunk, WorkJob, WorkStage

PLAN = 0
MAX_ATTEMPTS = 5
_UNFINISHED = (ChunkState.PENDING, ChunkState.LEASED)


class LeaseLostError(PipelineError):
    """Somebody else has the chunk, or the job was stopped: what was done must be rolled back."""

    code = "LEASE_LOST"


@dataclass(frozen=True)
class ChunkRef:
    """What a message carries: which chunk of which job. Number 0 is the stage's plan."""

    job_id: str
    stage: Stage
    number: int

    def __str__(self) -> str:
        return f"{self.stage} chunk {self.number} of job {self.job_id}"


@dataclass(frozen=True)
class Claim:
    """The right to work on a chunk until the lease ends, and what the work needs to know."""

    ref: ChunkRef
    kind: JobKind
    fence: int
    attempts: int
    span: Mapping[str, Any]
    record_count: int
    context: Mapping[str, Any]
    options: Mapping[str, Any]
    upload_id: str | None


@dataclass(frozen=True)
class ChunkResult:
    """What became of a chunk's records: `done`, `failed` and skipped with a reason.

    `outcomes` says it of each row of a load, as `pipeline.ingest.outcomes` packs it.
    """

    done: int
    failed: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    outcomes: bytes | None = None


@dataclass(frozen=True)
class StageTally:
    """A stage's totals after a chunk of it ended."""

    is_over: bool
    failed_chunk_count: int
    total_count: int
    done_count: int
    failed_count: int


@dataclass(frozen=True)
class PlannedChunk:
    """A chunk to be: its span and how many records it holds."""

    span: Mapping[str, Any]
    record_count: int


def _is(ref: ChunkRef) -> Any:  # noqa: ANN401 - SQLAlchemy's own type of a condition is not public
    return and_(WorkChunk.job_id == ref.job_id, WorkChunk.stage == ref.stage, WorkChunk.number == ref.number)


def _from_now(seconds: float) -> Any:  # noqa: ANN401 - as above
    return func.now() + timedelta(seconds=seconds)


def open_stage(
    session: Session, job_id: str, stage: Stage, context: Mapping[str, Any] | None = None
) -> ChunkRef:
    """Put a stage on the ledger with its plan as the only chunk; nothing happens where it is there."""
    session.execute(
        upsert(WorkStage)
        .values(job_id=job_id, stage=stage, context=dict(context or {}))
        .on_conflict_do_nothing()
    )
    session.execute(
        upsert(WorkChunk).values(job_id=job_id, stage=stage, number=PLAN).on_conflict_do_nothing()
    )
    return ChunkRef(job_id, stage, PLAN)


def claim(session: Session, ref: ChunkRef, *, worker: str, lease_seconds: float) -> Claim | None:
    """Take the chunk's lease, if it is free and due.

    Returns:
        None where there is nothing to do: the chunk is done, stopped, leased, not due, used up or gone.
    """
    is_free = or_(
        WorkChunk.state == ChunkState.PENDING,
        and_(WorkChunk.state == ChunkState.LEASED, WorkChunk.leased_until < func.now()),
    )
    is_due = or_(WorkChunk.not_before.is_(None), WorkChunk.not_before <= func.now())
    row = session.execute(
        update(WorkChunk)
        .where(_is(ref), is_free, is_due, WorkChunk.attempts < MAX_ATTEMPTS)
        .values(
            state=ChunkState.LEASED,
            fence=WorkChunk.fence + 1,
            attempts=WorkChunk.attempts + 1,
            leased_by=worker,
            leased_until=_from_now(lease_seconds),
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


def _held(held: Claim) -> Any:  # noqa: ANN401 - as above
    return and_(_is(held.ref), WorkChunk.fence == held.fence, WorkChunk.state == ChunkState.LEASED)


def renew(session: Session, held: Claim, *, lease_seconds: float) -> bool:
    """Prolong the lease; False where it is lost."""
    renewed = session.execute(
        update(WorkChunk)
        .where(_held(held))
        .values(leased_until=_from_now(lease_seconds))
        .returning(WorkChunk.number)
        .execution_options(synchronize_session=False)
    )
    return renewed.first() is not None


def _end_chunk(session: Session, held: Claim, **values: Any) -> None:  # noqa: ANN401 - column values
    ended = session.execute(
        update(WorkChunk)
        .where(_held(held))
        # The clock, not the transaction's start, which lies before the work. Who did it stays to be seen.
        .values(leased_until=None, ended_at=func.clock_timestamp(), **values)
        .returning(WorkChunk.number)
        .execution_options(synchronize_session=False)
    )
    if ended.first() is None:
        raise LeaseLostError(f"the lease of {held.ref} was lost")


def record_plan(
    session: Session,
    held: Claim,
    chunks: Iterable[PlannedChunk],
    *,
    context: Mapping[str, Any] | None = None,
) -> int:
    """Put a stage's chunks on the ledger and end its plan, in the caller's transaction.

    Returns:
        The number of chunks; 0 means that the stage is over before it began.

    Raises:
        LeaseLostError: somebody else planned it, or the job was stopped.
    """
    _end_chunk(session, held, state=ChunkState.DONE)
    rows = [
        {
            "job_id": held.ref.job_id,
            "stage": held.ref.stage,
            "number": number,
            "span": dict(chunk.span),
            "record_count": chunk.record_count,
        }
        for number, chunk in enumerate(chunks, start=1)
    ]
    if rows:
        session.execute(insert(WorkChunk), rows)
    session.execute(
        update(WorkStage)
        .where(WorkStage.job_id == held.ref.job_id, WorkStage.stage == held.ref.stage)
        .values(
            chunk_count=len(rows),
            total_count=sum(row["record_count"] for row in rows),
            context={**held.context, **(context or {})},
            planned_at=func.now(),
            ended_at=None if rows else func.now(),
        )
        .execution_options(synchronize_session=False)
    )
    return len(rows)


def complete(session: Session, held: Claim, result: ChunkResult) -> StageTally:
    """End a chunk whose work stands in the same transaction.

    Raises:
        LeaseLostError: another claim came after this one, or the job was stopped: roll back.
    """
    _end_chunk(
        session,
        held,
        state=ChunkState.DONE,
        done_count=result.done,
        failed_count=result.failed,
        skipped=dict(result.skipped),
        outcomes=result.outcomes,
        error=None,
    )
    return _count_ended(session, held.ref, done=result.done, failed=result.failed)


def give_up(session: Session, held: Claim, error: str) -> StageTally:
    """End a chunk that will never work; its records count as failed.

    Raises:
        LeaseLostError: as in `complete`.
    """
    _end_chunk(session, held, state=ChunkState.FAILED, failed_count=held.record_count, error=error)
    return _count_ended(session, held.ref, done=0, failed=held.record_count, failed_chunks=1)


def _count_ended(
    session: Session, ref: ChunkRef, *, done: int, failed: int, failed_chunks: int = 0
) -> StageTally:
    row = session.execute(
        update(WorkStage)
        .where(WorkStage.job_id == ref.job_id, WorkStage.stage == ref.stage)
        .values(
            ended_chunk_count=WorkStage.ended_chunk_count + 1,
            failed_chunk_count=WorkStage.failed_chunk_count + failed_chunks,
            done_count=WorkStage.done_count + done,
            failed_count=WorkStage.failed_count + failed,
            ended_at=case((WorkStage.ended_chunk_count + 1 == WorkStage.chunk_count, func.now())),
        )
        .returning(
            WorkStage.ended_chunk_count,
            WorkStage.chunk_count,
            WorkStage.failed_chunk_count,
            WorkStage.total_count,
            WorkStage.done_count,
            WorkStage.failed_count,
        )
        .execution_options(synchronize_session=False)
    ).one()
    return StageTally(
        is_over=row.ended_chunk_count == row.chunk_count,
        failed_chunk_count=row.failed_chunk_count,
        total_count=row.total_count,
        done_count=row.done_count,
        failed_count=row.failed_count,
    )


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
        .where(_held(held))
        .values(
            state=ChunkState.PENDING,
            attempts=WorkChunk.attempts - (0 if is_counted else 1),
            leased_by=None,
            leased_until=None,
            not_before=_from_now(delay),
            published_at=None,
            publications=0,
            error=error,
        )
        .returning(WorkChunk.number)
        .execution_options(synchronize_session=False)
    )
    return released.first() is not None


def stop_job(session: Session, job_id: str) -> None:
    """Stop every unfinished chunk of a job: no claim will find it, no completion will pass."""
    session.execute(
        update(WorkChunk)
        .where(WorkChunk.job_id == job_id, WorkChunk.state.in_(_UNFINISHED))
        .values(state=ChunkState.STOPPED, leased_by=None, leased_until=None)
        .execution_options(synchronize_session=False)
    )


def take_unpublished(session: Session, job_id: str, limit: int) -> list[ChunkRef]:
    """Mark up to `limit` chunks that were never published as published now, in order, and give them."""
    chosen = (
        select(WorkChunk.stage, WorkChunk.number)
        .where(
            WorkChunk.job_id == job_id,
            WorkChunk.state == ChunkState.PENDING,
            WorkChunk.published_at.is_(None),
            or_(WorkChunk.not_before.is_(None), WorkChunk.not_before <= func.now()),
        )
        .order_by(WorkChunk.stage, WorkChunk.number)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("chosen")
    )
    rows = session.execute(
        update(WorkChunk)
        .where(
            WorkChunk.job_id == job_id, WorkChunk.stage == chosen.c.stage, WorkChunk.number == chosen.c.number
        )
        .values(published_at=func.now(), publications=WorkChunk.publications + 1)
        .returning(WorkChunk.stage, WorkChunk.number)
        .execution_options(synchronize_session=False)
    )
    return sorted(
        (ChunkRef(job_id, Stage(row.stage), row.number) for row in rows), key=lambda ref: ref.number
    )
