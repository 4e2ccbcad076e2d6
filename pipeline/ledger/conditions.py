"""Conditions that several questions to the ledger share."""

from datetime import timedelta
from typing import Any

from sqlalchemy import DateTime, and_, exists, func, literal_column

from pipeline.ledger.work import ChunkRef, Claim
from pipeline.settings import get_settings
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


def is_expired() -> Any:  # noqa: ANN401 - as above
    """Tell whether a row's lease has ended, and its holder could have renewed it.

    While the server was away nobody could: its return gives everybody a lease anew.
    """
    anew = back_since() + timedelta(seconds=get_settings().lease_seconds)
    return and_(WorkChunk.state == ChunkState.LEASED, WorkChunk.leased_until < func.now(), anew < func.now())


def back_since() -> Any:  # noqa: ANN401 - as above
    """Give the moment since when the server takes connections.

    Its WAL writer starts when it has recovered. A role that may not see that process is told the server's own
    start, which lies before its recovery.
    """
    return literal_column(
        "coalesce((SELECT max(backend_start) FROM pg_stat_activity WHERE backend_type = 'walwriter'),"
        " pg_postmaster_start_time())",
        DateTime(timezone=True),
    )
