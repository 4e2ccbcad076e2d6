"""Uploads and their files: which are still needed, and removing the others.

What names a file is the row in `uploads`: a file whose row is gone, or marked as removed, is nobody's. So the
row goes first, and a file that a crash leaves behind is found later.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

from sqlalchemy import delete, exists, or_, select, update
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.errors import NotFoundError
from pipeline.ids import CUID_LENGTH, is_cuid
from pipeline.settings import get_settings
from pipeline.states import ENDED
from pipeline.storage import INCOMING_PREFIX, get_storage
from schemas.own import Upload, WorkJob
from schemas.reference import IngestJob

# A file is stored before its row is committed; nothing takes this long in between.
_STRAY_AFTER = timedelta(days=1)
_LIMIT = 200


def find_upload(session: Session, job_id: str) -> Upload:
    """Give the upload of a job, whose file is still kept.

    Raises:
        NotFoundError: the upload was removed; says when and what to do.
    """
    upload = session.scalar(
        select(Upload).join(WorkJob, WorkJob.upload_id == Upload.id).where(WorkJob.job_id == job_id)
    )
    if upload is None:
        raise NotFoundError(f"job {job_id} has no upload any more: submit the file again")
    if upload.removed_at is not None:
        days = (upload.removed_at - upload.created_at).days
        raise NotFoundError(
            f"the upload {upload.file_name} was removed after {days} days: submit the file again"
        )
    return upload


def remove_expired_files(now: datetime, *, limit: int = _LIMIT) -> int:
    """Remove the files of uploads whose jobs all ended long enough ago; gives the number of uploads.

    The rows stay as long as their jobs do, and say when the file was removed.
    """
    ended_before = now - timedelta(days=get_settings().upload_retention_days)
    with transaction() as session:
        upload_ids = _find_expired(session, ended_before, limit)
    return sum(_remove_if_expired(upload_id, now, ended_before) for upload_id in upload_ids)


def _find_expired(session: Session, ended_before: datetime, limit: int) -> list[str]:
    is_needed = or_(IngestJob.status.not_in(ENDED), IngestJob.updated_at > _as_utc(ended_before))
    of_upload = exists().where(WorkJob.upload_id == Upload.id)
    return list(
        session.scalars(
            select(Upload.id)
            .where(
                Upload.removed_at.is_(None),
                of_upload,
                ~of_upload.where(IngestJob.id == WorkJob.ingest_job_id, is_needed),
            )
            .order_by(Upload.created_at)
            .limit(limit)
        )
    )


def _remove_if_expired(upload_id: str, now: datetime, ended_before: datetime) -> bool:
    with transaction() as session:
        # A retry locks the job first, too: it either comes before this, or finds the upload removed.
        jobs = session.execute(
            select(IngestJob.status, IngestJob.updated_at)
            .join(WorkJob, WorkJob.ingest_job_id == IngestJob.id)
            .where(WorkJob.upload_id == upload_id)
            .order_by(IngestJob.id)
            .with_for_update(of=IngestJob)
        ).all()
        if any(job.status not in ENDED or job.updated_at > _as_utc(ended_before) for job in jobs):
            return False
        session.execute(update(Upload).where(Upload.id == upload_id).values(removed_at=now))
    get_storage().delete_all(upload_id)
    return True


def _as_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def remove_unused_uploads(*, project_id: str | None = None, limit: int = _LIMIT) -> int:
    """Remove uploads that no job uses any more, rows and files; gives their number.

    Args:
        project_id: only this project's.
        limit: the most uploads to remove.
    """
    question = select(Upload.id).where(~exists().where(WorkJob.upload_id == Upload.id))
    if project_id is not None:
        question = question.where(Upload.project_id == project_id)
    unused = question.limit(limit).with_for_update(skip_locked=True).cte("unused")
    with transaction() as session:
        upload_ids = list(
            session.scalars(delete(Upload).where(Upload.id == unused.c.id).returning(Upload.id))
        )
    for upload_id in upload_ids:
        get_storage().delete_all(upload_id)
    return len(upload_ids)


def remove_stray_files(now: datetime, *, limit: int = _LIMIT) -> int:
    """Remove stored files that no upload names, and half-stored ones, once they are a day old.

    A file whose name is not of our making is left alone: the folder may be used for something else, too.
    """
    storage, count = get_storage(), 0
    old = (file.key for file in storage.list_files() if file.modified_at < now - _STRAY_AFTER)
    while count < limit and (keys := list(islice(old, _LIMIT))):
        for key in islice(_stray(keys), limit - count):
            storage.delete(key)
            count += 1
    return count


def _stray(keys: Iterable[str]) -> Iterator[str]:
    owners = {key: key[:CUID_LENGTH] for key in keys if is_cuid(key[:CUID_LENGTH])}
    with transaction() as session:
        kept = set(
            session.scalars(
                select(Upload.id).where(Upload.id.in_(set(owners.values())), Upload.removed_at.is_(None))
            )
        )
    for key in keys:
        if key.startswith(INCOMING_PREFIX) or (key in owners and owners[key] not in kept):
            yield key
