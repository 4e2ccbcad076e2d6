"""What is watched over time: how much there is of everything, and how long the oldest work waits."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import func, literal, select, union_all
from sqlalchemy.orm import Session

from schemas.enums import ChunkState, JobKind
from schemas.own import AiServer, WorkChunk
from schemas.reference import AnalyticsJob, IngestJob


@dataclass(frozen=True)
class Figures:
    """Counts by kind and status, by stage and state; seconds by stage."""

    jobs: Mapping[tuple[str, str], int]
    chunks: Mapping[tuple[str, str], int]
    oldest_waiting: Mapping[str, float]
    paused_servers: int


def read_figures(session: Session) -> Figures:
    """Count, all from one snapshot; chunks that ended are not looked at."""
    jobs = union_all(
        select(literal(JobKind.INGEST), IngestJob.status, func.count()).group_by(IngestJob.status),
        select(literal(JobKind.ANALYTICS), AnalyticsJob.status, func.count()).group_by(AnalyticsJob.status),
    )
    is_open = WorkChunk.state.in_([ChunkState.PENDING, ChunkState.LEASED])
    chunks = (
        select(WorkChunk.stage, WorkChunk.state, func.count())
        .where(is_open)
        .group_by(WorkChunk.stage, WorkChunk.state)
    )
    waited = func.extract("epoch", func.now() - func.min(WorkChunk.published_at))
    oldest = (
        select(WorkChunk.stage, waited)
        .where(WorkChunk.state == ChunkState.PENDING, WorkChunk.published_at.is_not(None))
        .group_by(WorkChunk.stage)
    )
    paused = select(func.count()).select_from(AiServer).where(AiServer.paused_until > func.now())
    return Figures(
        jobs={(str(kind), str(status)): count for kind, status, count in session.execute(jobs)},
        chunks={(stage, state): count for stage, state, count in session.execute(chunks)},
        oldest_waiting={stage: float(seconds) for stage, seconds in session.execute(oldest)},
        paused_servers=session.scalar(paused) or 0,
    )
