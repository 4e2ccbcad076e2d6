"""Which chunks a message is to be sent for."""

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session

from pipeline.ledger.work import ChunkRef
from schemas.enums import ChunkState, Stage
from schemas.own import Upload, WorkChunk, WorkJob

# So many wait for a worker before it is known how many workers a job has.
_LEAST_QUEUED = 4


def count_room(session: Session, job_id: str, *, most: int) -> int:
    """Say how many more chunks of a job are to be published: one waits for each that is worked on.

    More would only make other jobs wait, whose chunks come behind them.

    Args:
        session: the transaction to ask in.
        job_id: the job.
        most: how many may wait at a time in any case.
    """
    is_queued = and_(WorkChunk.state == ChunkState.PENDING, WorkChunk.published_at.is_not(None))
    row = session.execute(
        select(
            func.count().filter(is_queued).label("queued"),
            func.count().filter(WorkChunk.state == ChunkState.LEASED).label("leased"),
        ).where(WorkChunk.job_id == job_id, WorkChunk.state.in_([ChunkState.PENDING, ChunkState.LEASED]))
    ).one()
    wanted = min(most, max(_LEAST_QUEUED, int(row.leased)))
    return max(wanted - int(row.queued), 0)


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


def find_small(session: Session, *, beside: ChunkRef, max_bytes: int) -> ChunkRef | None:
    """Find a chunk of the same stage that nobody has begun, of the small job that waits longest.

    What was tried before is left to a worker of its own: it may have cost the last one its life.

    Args:
        session: the transaction to ask in.
        beside: the chunk that is being worked on; of another job.
        max_bytes: how large the upload of a small job may be.

    Returns:
        None where nobody small waits.
    """
    row = session.execute(
        select(WorkChunk.job_id, WorkChunk.number)
        .join(WorkJob, WorkJob.job_id == WorkChunk.job_id)
        .join(Upload, Upload.id == WorkJob.upload_id)
        .where(
            WorkChunk.state == ChunkState.PENDING,
            WorkChunk.stage == beside.stage,
            WorkChunk.job_id != beside.job_id,
            WorkChunk.not_before.is_(None),
            WorkChunk.attempts == 0,
            Upload.size_bytes <= max_bytes,
        )
        .order_by(WorkJob.created_at, WorkChunk.number)
        .limit(1)
    ).first()
    return None if row is None else ChunkRef(row.job_id, beside.stage, row.number)
