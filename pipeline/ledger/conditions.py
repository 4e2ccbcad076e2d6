"""Conditions that several questions to the ledger share."""

from datetime import timedelta
from typing import Any

from sqlalchemy import and_, exists, func

from pipeline.ledger.work import ChunkRef, Claim
from schemas.enums import ChunkState
from schemas.own import WorkChunk, WorkJob


def is_chunk(ref: ChunkRef) -> Any:  # noqa: ANN401 - SQLAlchemy's own type of a condition is not public
    """Tell whether a row is this chunk."""
    return and_(WorkChunk.job_id == ref.job_id, WorkChunk.stage == ref.stage, WorkChunk.number == ref.number)


def from_now(seconds: float) -> Any:  # noqa: ANN401 - as above
    """Give the moment so many seconds from the transaction's start."""
    return func.now() + timedelta(seconds=seconds)


def is_stopping(job_id: str) -> Any:  # noqa: ANN401 - as above
    """Tell whether no further chunk of a job is to begin."""
    return exists().where(WorkJob.job_id == job_id, WorkJob.stopping.is_not(None))


def is_held(held: Claim) -> Any:  # noqa: ANN401 - as above
    """Tell whether a row is still held by this claim, and not by a later one."""
    return and_(is_chunk(held.ref), WorkChunk.fence == held.fence, WorkChunk.state == ChunkState.LEASED)
