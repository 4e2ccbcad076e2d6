"""Taking a file in: stored, looked at, and put on the ledger as a job. Nothing is loaded here."""

from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pipeline import ledger
from pipeline.audit import note
from pipeline.csvfile import FileHead, Utf8Reader, inspect_head, needs_transcoding, read_chunk
from pipeline.database import transaction
from pipeline.errors import DuplicateError, InputError
from pipeline.idempotency import claim_key
from pipeline.ids import new_cuid
from pipeline.ingest.rows import RowReader, row_options
from pipeline.ledger import ChunkRef
from pipeline.settings import get_settings
from pipeline.storage import ArrivedFile, FileStorage, StoredFile, get_storage
from schemas.enums import JobStatus, Stage
from schemas.options import IngestOptions
from schemas.own import Upload, WorkJob
from schemas.reference import IngestJob

# How much of a file is read to estimate its number of records.
_SAMPLE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Submission:
    """A job that stands on the ledger and the chunk to publish for it."""

    job_id: str
    plan: ChunkRef
    # None where the file is still to be fetched.
    size_bytes: int | None
    # By the density of the file's beginning; the plan counts exactly.
    estimated_records: int | None


def submit_csv(
    project_id: str,
    source: BinaryIO | ArrivedFile,
    *,
    file_name: str,
    options: IngestOptions,
    force: bool = False,
) -> Submission:
    """Store a CSV file and make the job that loads it.

    Args:
        project_id: the project that gets the records.
        source: the file's bytes, read once from where it stands; or a file that is in storage already, which
            becomes the job's without being copied.
        file_name: the name the user knows it by.
        options: how to read it and what follows.
        force: load the same bytes again.

    Raises:
        InputError: the file cannot be read as asked (see `pipeline.csvfile`).
        TooLargeError: it has more bytes than are taken.
        DuplicateError: the project has the same bytes already; names the job.
        KeyTakenError: the same request made its job already (see `pipeline.idempotency`).
    """
    storage, upload_id, job_id = get_storage(), new_cuid(), new_cuid()
    stored = _store(storage, f"{upload_id}.csv", source)
    try:
        estimate = _check_head(storage, stored, options)
        with transaction() as session:
            claim_key(session, job_id)
            if not force:
                refuse_same_bytes(session, project_id, stored.sha256)
            upload = Upload(
                id=upload_id,
                project_id=project_id,
                file_name=file_name,
                storage_key=stored.key,
                size_bytes=stored.size_bytes,
                sha256=stored.sha256,
            )
            plan = make_job(session, job_id, upload, options)
        return Submission(plan.job_id, plan, stored.size_bytes, estimate)
    except BaseException:
        storage.delete(stored.key)
        raise


def _store(storage: FileStorage, key: str, source: BinaryIO | ArrivedFile) -> StoredFile:
    if isinstance(source, ArrivedFile):
        return source.store_as(key)
    return storage.put(key, source, max_bytes=get_settings().max_upload_bytes)


def _check_head(storage: FileStorage, stored: StoredFile, options: IngestOptions) -> int:
    """See that the file can be read as asked; gives an estimate of its records."""
    with storage.open(stored.key) as source:
        head = inspect_head(source, delimiter=options.delimiter, encoding=options.encoding)
        # A mapping that names a missing column is refused now, not by the first worker.
        RowReader(head.header, row_options(options))
        source.seek(0)
        return _estimate_records(source, stored.size_bytes, head)


def _estimate_records(source: BinaryIO, size_bytes: int, head: FileHead) -> int:
    text = Utf8Reader(source, head.encoding) if needs_transcoding(head.encoding) else source
    text.read(head.body_start)
    sample = text.read(_SAMPLE_BYTES)
    # Cut behind a line end: not inside a character, and at worst inside one quoted field.
    sample = sample[: sample.rfind(b"\n") + 1] or sample
    count = 0
    try:
        for count, _ in enumerate(read_chunk(sample, first_line=1, delimiter=head.delimiter), start=1):  # noqa: B007 - the last number is what is wanted
            pass
    except InputError:
        pass  # the sample ends inside a field; the plan will say if it is the file that does
    return max(1, round(count * size_bytes / source.tell()))


def refuse_same_bytes(session: Session, project_id: str, sha256: str) -> None:
    """See that a project has no file of the same bytes yet.

    Raises:
        DuplicateError: it has; names the job.
    """
    # Of two submissions at once the second waits here for the first one's commit, and then finds its job.
    key = f"opspipe upload {project_id} {sha256}"
    session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(key, 0))))
    earlier = session.scalar(
        select(IngestJob.id)
        .join(WorkJob, WorkJob.ingest_job_id == IngestJob.id)
        .join(Upload, Upload.id == WorkJob.upload_id)
        .where(
            Upload.project_id == project_id,
            Upload.sha256 == sha256,
            IngestJob.status.not_in([JobStatus.FAILED, JobStatus.CANCELLED]),
        )
        .order_by(IngestJob.created_at)
        .limit(1)
    )
    if earlier is not None:
        raise DuplicateError(
            f"the same file was already submitted to this project as job {earlier}: "
            "force it to load it again (records with an identity are not doubled)",
            job_id=earlier,
        )


def make_job(session: Session, job_id: str, upload: Upload, options: IngestOptions) -> ChunkRef:
    """Put an upload and the job that loads it on the ledger; gives the chunk to publish."""
    session.add(upload)
    session.add(IngestJob(id=job_id, project_id=upload.project_id, type=options.record_type))
    session.flush()
    session.add(
        WorkJob(
            job_id=job_id, ingest_job_id=job_id, upload_id=upload.id, options=options.model_dump(mode="json")
        )
    )
    session.flush()
    note(
        session,
        "job.submit",
        "job",
        job_id,
        upload.project_id,
        type=options.record_type,
        file_name=upload.file_name,
        # Of a URL the rest may be a secret: a name and password, or a signature.
        host=urlsplit(upload.url).hostname if upload.url else None,
        size_bytes=upload.size_bytes,
        sha256=upload.sha256,
    )
    return ledger.open_stage(session, job_id, Stage.LOAD)
