"""Which chunks a message is to be sent for."""

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from pipeline.ledger.work import ChunkRef
from schemas.enums import ChunkState, Stage
from schemas.own import WorkChunk


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
