"""What a job does next: the order of its stages, and the counters that move with each chunk.

Every stage ends its chunks through here, in the transaction that holds its rows, so that rows, counters and
status are committed together.
"""

from collections import Counter

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from pipeline import ledger
from pipeline.failures import list_chunk
from pipeline.ledger import ChunkResult, Claim, LeaseLostError, PlannedChunk, StageTally
from pipeline.states import RUNNING, UNFINISHED, WAITING, change_status, lock_job
from schemas.enums import ChunkState, JobKind, JobStatus, Stage
from schemas.own import RecordFailure, WorkChunk
from schemas.reference import AnalyticsJob, IngestJob


def lock_running(session: Session, held: Claim) -> JobStatus:
    """Lock the job's row, before any row that hangs on it, and see that the job still wants the work.

    Raises:
        LeaseLostError: the job has ended or is gone: roll back.
    """
    status = lock_job(session, held.kind, held.ref.job_id)
    if status not in UNFINISHED:
        raise LeaseLostError(
            f"job {held.ref.job_id} is {status or 'gone'}: {held.ref} is not wanted any more"
        )
    return status


def finish_plan(
    session: Session, held: Claim, chunks: list[PlannedChunk], *, context: dict[str, object] | None = None
) -> None:
    """End a stage's plan: its chunks stand on the ledger, the job says that the stage is under way.

    Raises:
        LeaseLostError: somebody else planned it, or the job was stopped: roll back.
    """
    lock_running(session, held)
    count = ledger.record_plan(session, held, chunks, context=context)
    stage, job_id = held.ref.stage, held.ref.job_id
    change_status(session, held.kind, job_id, RUNNING[stage], leaving=WAITING[stage])
    total = sum(chunk.record_count for chunk in chunks)
    if stage is Stage.LOAD:
        session.execute(update(IngestJob).where(IngestJob.id == job_id).values(total_records=total))
    elif stage is Stage.ANALYZE:
        session.execute(update(AnalyticsJob).where(AnalyticsJob.id == job_id).values(total_records=total))
    if count == 0:
        _end_stage(session, held, StageTally(True, 0, 0, 0, 0))


def finish_chunk(session: Session, held: Claim, result: ChunkResult) -> None:
    """End a chunk whose rows were written in this transaction; move the counters and, at the last, the job.

    Raises:
        LeaseLostError: another worker has the chunk, or the job was stopped: roll back.
    """
    lock_running(session, held)
    tally = ledger.complete(session, held, result)
    _count(session, held, result)
    if tally.is_over:
        _end_stage(session, held, tally)


def fail_chunk(session: Session, held: Claim, error: str) -> None:
    """End a chunk that will never work. Its rows are not lost: `retry` takes the chunk up again.

    Raises:
        LeaseLostError: as in `finish_chunk`.
    """
    if held.ref.number == ledger.PLAN:
        fail_job(session, held.kind, held.ref.job_id, error)
        return
    lock_running(session, held)
    tally = ledger.give_up(session, held, error)
    list_chunk(session, held, error)
    _count(session, held, ChunkResult(done=0, failed=held.record_count))
    if tally.is_over:
        _end_stage(session, held, tally)


def fail_job(session: Session, kind: JobKind, job_id: str, error: str) -> bool:
    """End a job as FAILED with its reason and stop its chunks; False where it had ended already."""
    changed = change_status(session, kind, job_id, JobStatus.FAILED, error=error)
    if changed:
        ledger.stop_job(session, job_id)
    return changed


def _count(session: Session, held: Claim, result: ChunkResult) -> None:
    now = func.timezone("utc", func.now())
    job_id = held.ref.job_id
    if held.ref.stage is Stage.LOAD:
        details = session.scalar(select(IngestJob.skipped_details).where(IngestJob.id == job_id))
        session.execute(
            update(IngestJob)
            .where(IngestJob.id == job_id)
            .values(
                saved_count=IngestJob.saved_count + result.done,
                skipped_count=IngestJob.skipped_count + sum(result.skipped.values()),
                skipped_details=dict(Counter(details or {}) + Counter(result.skipped)),
                updated_at=now,
            )
        )
    elif held.ref.stage is Stage.ANALYZE:
        session.execute(
            update(AnalyticsJob)
            .where(AnalyticsJob.id == job_id)
            .values(
                processed_count=AnalyticsJob.processed_count + result.done + result.failed, updated_at=now
            )
        )


def _end_stage(session: Session, held: Claim, tally: StageTally) -> None:
    job_id = held.ref.job_id
    if held.ref.stage is Stage.LOAD and tally.failed_chunk_count:
        fail_job(session, held.kind, job_id, _failed_chunks(session, held))
    elif tally.failed_count and not tally.done_count:
        fail_job(session, held.kind, job_id, _nothing_succeeded(session, held))
    elif held.ref.stage is Stage.LOAD and tally.done_count and held.options["embed"]:
        change_status(session, held.kind, job_id, JobStatus.QUEUED_FOR_VEC, leaving=JobStatus.PROCESSING)
        ledger.open_stage(session, job_id, Stage.VECTORIZE)
    else:
        change_status(session, held.kind, job_id, JobStatus.COMPLETED)


def _failed_chunks(session: Session, held: Claim) -> str:
    row = session.execute(
        select(func.count(), func.sum(WorkChunk.record_count), func.min(WorkChunk.error)).where(
            WorkChunk.job_id == held.ref.job_id,
            WorkChunk.stage == held.ref.stage,
            WorkChunk.state == ChunkState.FAILED,
        )
    ).one()
    return (
        f"{row[0]} of the file's chunks ({row[1]} rows) could not be loaded: {row[2]}. "
        "`retry` takes them up again"
    )


def _nothing_succeeded(session: Session, held: Claim) -> str:
    reason = session.scalar(
        select(RecordFailure.message)
        .where(RecordFailure.job_id == held.ref.job_id, RecordFailure.stage == held.ref.stage)
        .limit(1)
    ) or session.scalar(
        select(WorkChunk.error)
        .where(
            WorkChunk.job_id == held.ref.job_id,
            WorkChunk.stage == held.ref.stage,
            WorkChunk.state == ChunkState.FAILED,
        )
        .limit(1)
    )
    return f"no record came through the {held.ref.stage} stage; the first reason: {reason}"
