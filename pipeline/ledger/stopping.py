"""Stopping a job: at once, or as soon as what is being worked on has ended."""

from sqlalchemy import exists, func, select, update
from sqlalchemy.orm import Session

from pipeline.ledger.conditions import is_expired
from schemas.enums import ChunkState
from schemas.own import WorkChunk, WorkJob

_UNFINISHED = (ChunkState.PENDING, ChunkState.LEASED)


def stop_job(session: Session, job_id: str) -> None:
    """Stop every unfinished chunk of a job: no claim will find it, no completion will pass."""
    session.execute(
        update(WorkJob)
        .where(WorkJob.job_id == job_id, WorkJob.stopping.is_not(None))
        .values(stopping=None)
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(WorkChunk)
        .where(WorkChunk.job_id == job_id, WorkChunk.state.in_(_UNFINISHED))
        .values(state=ChunkState.STOPPED, leased_by=None, leased_until=None)
        .execution_options(synchronize_session=False)
    )


def begin_stop(session: Session, job_id: str, reason: str) -> None:
    """Let no further chunk of a job begin; those that are worked on may end. The first reason stays."""
    session.execute(
        update(WorkJob)
        .where(WorkJob.job_id == job_id)
        .values(stopping=func.coalesce(WorkJob.stopping, reason))
        .execution_options(synchronize_session=False)
    )
    session.execute(
        update(WorkChunk)
        .where(WorkChunk.job_id == job_id, WorkChunk.state == ChunkState.PENDING)
        .values(state=ChunkState.STOPPED)
        .execution_options(synchronize_session=False)
    )


def stop_reason(session: Session, job_id: str) -> str | None:
    """Give the reason of a job that is stopping and that nobody works on any more; else None."""
    is_worked_on = exists().where(
        WorkChunk.job_id == job_id,
        WorkChunk.state == ChunkState.LEASED,
        ~is_expired(),
    )
    return session.scalar(
        select(WorkJob.stopping).where(WorkJob.job_id == job_id, WorkJob.stopping.is_not(None), ~is_worked_on)
    )
