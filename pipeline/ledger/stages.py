"""A stage on the ledger: opened with its plan, planned into chunks, counted as they end."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import case, func, insert, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pipeline.ledger.claims import end_chunk
from pipeline.ledger.work import PLAN, ChunkRef, Claim, PlannedChunk, StageTally
from schemas.enums import ChunkState, Stage
from schemas.own import WorkChunk, WorkStage


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
    end_chunk(session, held, state=ChunkState.DONE)
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


def count_ended(
    session: Session, ref: ChunkRef, *, done: int, failed: int, failed_chunks: int = 0, more_chunks: int = 0
) -> StageTally:
    """Move a stage's counters by a chunk that ended, in the transaction that ends it."""
    row = session.execute(
        update(WorkStage)
        .where(WorkStage.job_id == ref.job_id, WorkStage.stage == ref.stage)
        .values(
            chunk_count=WorkStage.chunk_count + more_chunks,
            ended_chunk_count=WorkStage.ended_chunk_count + 1,
            failed_chunk_count=WorkStage.failed_chunk_count + failed_chunks,
            done_count=WorkStage.done_count + done,
            failed_count=WorkStage.failed_count + failed,
            ended_at=case(
                (WorkStage.ended_chunk_count + 1 == WorkStage.chunk_count + more_chunks, func.now())
            ),
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
        chunk_count=row.chunk_count,
        failed_chunk_count=row.failed_chunk_count,
        total_count=row.total_count,
        done_count=row.done_count,
        failed_count=row.failed_count,
    )
