"""Deleting a job: the job at once, its records batch by batch while others work.

The row in `removals` is put there with the job's deletion and goes when no record is left, so that whoever
finds it can go on, whenever and however often.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pipeline.audit import note_job
from pipeline.database import transaction
from pipeline.errors import InputError, NotFoundError, TransientError
from pipeline.jobviews import resolve_job
from pipeline.states import lock_job
from pipeline.uploads import remove_unused_uploads
from schemas.enums import JobKind
from schemas.own import Removal
from schemas.reference import DataRecord, IngestJob

# Records a transaction: some tenths of a second, for which others may have to wait.
_BATCH = 2_000
# Nobody has touched a removal for this long: whoever worked on it, or the message for it, is gone.
_LOST_AFTER_SECONDS = 60
_PAUSE_SECONDS = 0.05

# Records that others hold at this moment come later: nobody waits here while holding records, so no deadlock.
# What belongs to a record goes with it by cascades and a trigger.
_REMOVE = text("""
    WITH chosen AS (
        SELECT id FROM data_records
        WHERE "ingestJobId" = :job_id AND id > :after
        ORDER BY id LIMIT :batch
        FOR UPDATE SKIP LOCKED
    ), gone AS (
        DELETE FROM data_records AS record USING chosen WHERE record.id = chosen.id RETURNING record.id
    )
    SELECT count(*) AS count, max(id) AS last_id FROM gone
""")
_HOLDS_ONE = text("""
    SELECT EXISTS (
        SELECT FROM record_identities AS identity JOIN data_records AS record ON record.id = record_id
        WHERE digest = ANY(CAST(:digests AS uuid[])) AND record."ingestJobId" = ANY(:job_ids)
    )
""")


@dataclass(frozen=True)
class RemovalProgress:
    """How many records were removed, and whether none is left."""

    deleted: int
    is_over: bool


def delete_job(session: Session, job_id: str) -> str:
    """Delete an ingest job with its ledger; its records wait for `remove_batches`. Gives the full id.

    What is being worked on is rolled back at its commit.

    Args:
        session: the transaction to do it in.
        job_id: the job's id or an unambiguous beginning of it; or the whole id of one whose records are still
            being removed.

    Raises:
        NotFoundError: there is no such job.
        InputError: it is an analysis.
    """
    try:
        kind, full_id = resolve_job(session, job_id)
    except NotFoundError:
        if find_removal(session, job_id) is None:
            raise
        return job_id
    if kind is not JobKind.INGEST:
        raise InputError(
            f"job {full_id} is an analysis, which loaded no records: `cancel` stops it, another analysis "
            "replaces its results"
        )
    if lock_job(session, kind, full_id) is None:
        return full_id  # somebody deleted it since the question
    project_id = select(IngestJob.id, IngestJob.project_id).where(IngestJob.id == full_id)
    session.execute(
        upsert(Removal).from_select(["job_id", "project_id"], project_id).on_conflict_do_nothing()
    )
    note_job(session, "job.delete", kind, full_id)
    session.execute(delete(IngestJob).where(IngestJob.id == full_id))
    return full_id


def remove_batches(
    job_id: str, *, seconds: float | None = None, on_progress: Callable[[int], None] | None = None
) -> RemovalProgress:
    """Remove the records of a deleted job, then what is left of the job: its upload and the removal itself.

    May be killed, run again and run by several at once: each record is removed once.

    Args:
        job_id: the deleted job; nothing happens to any other.
        seconds: how long to work at most, but for the batch under way; None: until no record is left.
        on_progress: called after each batch with the number of records removed so far.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    deleted, after = 0, ""
    while _touch(job_id):
        with transaction() as session:
            count, last_id = session.execute(
                _REMOVE, {"job_id": job_id, "after": after, "batch": _BATCH}
            ).one()
        deleted += count
        if on_progress is not None:
            on_progress(deleted)
        # Behind the last one: what was removed before stays in the index for a while.
        after = last_id or ""
        if count < _BATCH:
            if _finish(job_id):
                break
            after = ""
            time.sleep(_PAUSE_SECONDS)
        if deadline is not None and time.monotonic() > deadline:
            return RemovalProgress(deleted, is_over=False)
    return RemovalProgress(deleted, is_over=True)


def _touch(job_id: str) -> bool:
    """Say that somebody works on the removal; False where it is over."""
    with transaction(is_durable=False) as session:
        touched = session.execute(
            update(Removal)
            .where(Removal.job_id == job_id)
            .values(touched_at=func.now())
            .returning(Removal.job_id)
            .execution_options(synchronize_session=False)
        )
        return touched.first() is not None


def _finish(job_id: str) -> bool:
    """End the removal if no record is left; False where some are, which others hold."""
    with transaction() as session:
        left = session.scalar(select(DataRecord.id).where(DataRecord.ingest_job_id == job_id).limit(1))
        if left is not None:
            return False
        project_id = session.scalar(
            delete(Removal).where(Removal.job_id == job_id).returning(Removal.project_id)
        )
    if project_id is not None:
        remove_unused_uploads(project_id=project_id)
    return True


def count_records(session: Session, job_id: str) -> int:
    """Count the records that a job has loaded, or that are left of a deleted one."""
    return session.scalar(select(func.count()).where(DataRecord.ingest_job_id == job_id)) or 0


def find_removal(session: Session, job_id: str) -> str | None:
    """Give the project of a deleted job whose records are being removed; None where there is no such job."""
    return session.scalar(select(Removal.project_id).where(Removal.job_id == job_id))


def list_removals(session: Session) -> list[str]:
    """List the deleted jobs whose records are being removed, the oldest first."""
    return list(session.scalars(select(Removal.job_id).order_by(Removal.created_at)))


def take_lost_removals(session: Session) -> list[str]:
    """List the removals that nobody has touched for a while, and mark them as touched."""
    before = func.now() - timedelta(seconds=_LOST_AFTER_SECONDS)
    return list(
        session.scalars(
            update(Removal)
            .where(Removal.touched_at < before)
            .values(touched_at=func.now())
            .returning(Removal.job_id)
            .execution_options(synchronize_session=False)
        )
    )


def wait_for_identities(session: Session, project_id: str, digests: Iterable[bytes | None]) -> None:
    """Refuse to look for duplicates among records that are about to be removed.

    To be asked before the identities themselves: a job that is deleted after that was there when they were.

    Raises:
        TransientError: such a record holds one of these identities.
    """
    job_ids = session.scalars(select(Removal.job_id).where(Removal.project_id == project_id)).all()
    if not job_ids:
        return
    wanted = [digest.hex() for digest in digests if digest is not None]
    if session.scalar(_HOLDS_ONE, {"digests": wanted, "job_ids": list(job_ids)}):
        raise TransientError("the records of a deleted job are still being removed", retry_after=1.0)
