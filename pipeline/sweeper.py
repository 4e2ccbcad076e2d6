"""The sweeper: finds work that nobody is doing and says what to publish again.

It may be wrong at no cost, because every task is idempotent; it is bounded, because each further publication
of the same chunk waits twice as long.
"""

from datetime import timedelta

from sqlalchemy import Float, and_, cast, func, or_, select, update
from sqlalchemy.orm import Session

from pipeline import flow, ledger
from pipeline.analyze import start_due_analyses
from pipeline.database import transaction
from pipeline.ledger import MAX_ATTEMPTS, ChunkRef, Claim, LeaseLostError, is_expired
from pipeline.settings import get_settings
from pipeline.states import UNFINISHED, lock_job
from schemas.enums import ChunkState, JobKind, Stage
from schemas.own import WorkChunk, WorkJob, WorkStage

# How often the patience with a message is doubled, once for each publication of it.
_MOST_DOUBLINGS = 5
_BATCH = 200


def sweep() -> list[ChunkRef]:
    """Give up what was tried too often, and collect every chunk that is to be published (again)."""
    give_up_exhausted()
    fail_stopped()
    with transaction() as session:
        start_due_analyses(session)
        refs = _lost(session)
        for job_id in _active_jobs(session):
            room = ledger.count_room(session, job_id, most=get_settings().publish_window)
            if room > 0:
                refs += ledger.take_unpublished(session, job_id, room)
    return refs


def give_up_exhausted() -> int:
    """End the chunks whose every attempt ended with a dead worker; gives their number."""
    with transaction() as session:
        exhausted = _exhausted(session)
    for held in exhausted:
        try:
            with transaction() as session:
                flow.fail_chunk(session, held, f"the worker died in each of {held.attempts} attempts")
        except LeaseLostError:
            continue  # stopped or taken up since the question
    return len(exhausted)


def fail_stopped() -> None:
    """End the stopping jobs whose last worker died before it could."""
    with transaction() as session:
        stopping = session.scalars(select(WorkJob).where(WorkJob.stopping.is_not(None)).limit(_BATCH)).all()
        jobs = [(JobKind.INGEST if job.ingest_job_id else JobKind.ANALYTICS, job.job_id) for job in stopping]
    for kind, job_id in jobs:
        with transaction() as session:
            if lock_job(session, kind, job_id) in UNFINISHED:
                flow.fail_if_stopped(session, kind, job_id)


def _exhausted(session: Session) -> list[Claim]:
    rows = session.execute(
        select(WorkChunk, WorkJob, WorkStage.context)
        .join(WorkJob, WorkJob.job_id == WorkChunk.job_id)
        .join(WorkStage, and_(WorkStage.job_id == WorkChunk.job_id, WorkStage.stage == WorkChunk.stage))
        .where(is_expired(), WorkChunk.attempts >= MAX_ATTEMPTS)
        .limit(_BATCH)
    )
    return [
        Claim(
            ref=ChunkRef(chunk.job_id, Stage(chunk.stage), chunk.number),
            kind=JobKind.INGEST if job.ingest_job_id else JobKind.ANALYTICS,
            fence=chunk.fence,
            attempts=chunk.attempts,
            span=chunk.span,
            record_count=chunk.record_count,
            context=context,
            options=job.options,
            upload_id=job.upload_id,
        )
        for chunk, job, context in rows
    ]


def _lost(session: Session) -> list[ChunkRef]:
    # A message is taken for lost when its chunk was not claimed for as long as a dead worker's chunk waits.
    lost_after = timedelta(seconds=get_settings().lease_seconds)
    doublings = func.least(WorkChunk.publications - 1, _MOST_DOUBLINGS)
    patience = lost_after * func.power(2.0, cast(doublings, Float))
    is_due = and_(
        WorkChunk.state == ChunkState.PENDING,
        or_(WorkChunk.not_before.is_(None), WorkChunk.not_before <= func.now()),
        WorkChunk.published_at < func.now() - patience,
    )
    # A worker that died left its lease behind: no patience needed beyond the lease, but not at every sweep.
    # One that was given back and taken up by an earlier message has not been published since.
    is_orphan = and_(
        is_expired(),
        or_(WorkChunk.published_at.is_(None), WorkChunk.published_at < func.now() - lost_after),
    )
    chosen = (
        select(WorkChunk.job_id, WorkChunk.stage, WorkChunk.number)
        .where(or_(is_due, is_orphan))
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
        .cte("chosen")
    )
    rows = session.execute(
        update(WorkChunk)
        .where(
            WorkChunk.job_id == chosen.c.job_id,
            WorkChunk.stage == chosen.c.stage,
            WorkChunk.number == chosen.c.number,
        )
        .values(published_at=func.now(), publications=WorkChunk.publications + 1)
        .returning(WorkChunk.job_id, WorkChunk.stage, WorkChunk.number)
        .execution_options(synchronize_session=False)
    )
    return [ChunkRef(row.job_id, Stage(row.stage), row.number) for row in rows]


def _active_jobs(session: Session) -> list[str]:
    return list(
        session.scalars(
            select(WorkChunk.job_id)
            .where(
                WorkChunk.state.in_([ChunkState.PENDING, ChunkState.LEASED]), WorkChunk.published_at.is_(None)
            )
            .distinct()
        )
    )
