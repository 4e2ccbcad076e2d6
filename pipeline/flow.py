"""What a job does next: the order of its stages, and the counters that move with each chunk.

Every stage ends its chunks through here, in the transaction that holds its rows, so that rows, counters and
status are committed together.
"""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from pipeline import ledger
from pipeline.failures import list_chunk
from pipeline.ledger import ChunkResult, Claim, LeaseLostError, PlannedChunk, StageTally
from pipeline.states import RUNNING, UNFINISHED, WAITING, change_status, lock_job
from schemas.enums import ChunkState, JobKind, JobStatus, Stage
from schemas.own import RecordFailure, WorkChunk
from schemas.reference import AnalyticsJob, IngestJob, Project


def hold_project(session: Session, project_id: str) -> None:
    """Keep a project from being deleted until this transaction ends; before anything of it is locked.

    Its deletion locks the project first, and then all that belongs to it: whoever works on some of that in
    another order would wait for the deletion, and the deletion for them. `lock_job` does the same.

    Raises:
        LeaseLostError: it is gone, and all work on it with it: roll back.
    """
    question = select(Project.id).where(Project.id == project_id)
    if session.scalar(question.with_for_update(read=True, key_share=True)) is None:
        raise LeaseLostError(f"the project {project_id} was deleted")


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
        _end_stage(session, held, StageTally(True, 0, 0, 0, 0, 0))


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
    else:
        fail_if_stopped(session, held.kind, held.ref.job_id)


def finish_part(
    session: Session, held: Claim, result: ChunkResult, *, settled_ids: Sequence[str], open_ids: Sequence[str]
) -> Claim:
    """Settle some records of a chunk whose work was interrupted, so that nothing is paid for twice.

    The settled part becomes a chunk of its own, ended; the held one keeps the rest. The job's row must be
    locked (`lock_running`).

    Returns:
        The claim on the rest, which is still held.

    Raises:
        LeaseLostError: as in `finish_chunk`.
    """
    rest = ledger.split_off(session, held, result, settled_ids=settled_ids, open_ids=open_ids)
    _count(session, held, result)
    return rest


def give_back(session: Session, held: Claim, *, delay: float, error: str, is_counted: bool) -> None:
    """Let a chunk be tried again after `delay` seconds (see `ledger.release`)."""
    # The job's row before the chunk's: the one order of locks.
    if lock_job(session, held.kind, held.ref.job_id) is not None:
        ledger.release(session, held, delay=delay, error=error, is_counted=is_counted)
        fail_if_stopped(session, held.kind, held.ref.job_id)


def stop_job(session: Session, held: Claim, reason: str) -> bool:
    """Fail the job that a chunk belongs to, once what is being worked on has been kept.

    No further chunk begins. Whoever ends the last one, or the sweeper where it died, fails the job.

    Returns:
        False where the lease was lost: the job has ended, or was retried since, maybe with other settings.
    """
    job_id = held.ref.job_id
    if lock_job(session, held.kind, job_id) not in UNFINISHED:
        return False
    if not ledger.release(session, held, delay=0.0, error=reason, is_counted=False):
        return False
    ledger.begin_stop(session, job_id, reason)
    fail_if_stopped(session, held.kind, job_id)
    return True


def fail_if_stopped(session: Session, kind: JobKind, job_id: str) -> None:
    """End a stopping job as FAILED if this was the last of its chunks that anybody worked on."""
    reason = ledger.stop_reason(session, job_id)
    if reason is not None:
        fail_job(session, kind, job_id, reason)


def fail_chunk(session: Session, held: Claim, error: str) -> None:
    """End a chunk that will never work. Its rows are not lost: `retry` takes the chunk up again.

    Raises:
        LeaseLostError: as in `finish_chunk`.
    """
    lock_running(session, held)
    # Others may have planned since, or the job was retried; a part may have been settled since the claim.
    held = ledger.look_again(session, held)
    if held.ref.number == ledger.PLAN:
        fail_job(session, held.kind, held.ref.job_id, error)
        return
    tally = ledger.give_up(session, held, error)
    list_chunk(session, held, error)
    _count(session, held, ChunkResult(done=0, failed=held.record_count))
    if tally.is_over:
        _end_stage(session, held, tally)
    else:
        fail_if_stopped(session, held.kind, held.ref.job_id)


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
    elif held.ref.stage is Stage.VECTORIZE:
        ledger.open_stage(session, job_id, Stage.COMPARE)
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
