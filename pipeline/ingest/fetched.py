"""Batches by URL: taken in as a job, and fetched into storage by the worker that plans it."""

from sqlalchemy import update

from pipeline.database import transaction
from pipeline.errors import FatalError, TransientError
from pipeline.fetch import check_url, open_url, safe_name
from pipeline.idempotency import claim_key
from pipeline.ids import new_cuid
from pipeline.ingest.submit import Submission, make_job, refuse_same_bytes
from pipeline.lease import LeasedReader
from pipeline.ledger import Claim
from pipeline.settings import get_settings
from pipeline.storage import get_storage
from schemas.enums import UploadFormat
from schemas.options import IngestOptions
from schemas.own import Upload

# A server that fails this often is not asked again: the job says so, and `retry` begins anew.
MAX_FETCHES = 5


def submit_url(project_id: str, url: str, *, options: IngestOptions, force: bool = False) -> Submission:
    """Make the job that fetches a batch in JSON and loads it. Nothing is fetched here.

    Args:
        project_id: the project that gets the records.
        url: http or https; an array of objects, JSON Lines or one object.
        options: what the records are and what follows.
        force: load the same bytes again.

    Raises:
        InputError: the URL cannot be used.
        KeyTakenError: the same request made its job already (see `pipeline.idempotency`).
    """
    check_url(url)
    upload_id, job_id = new_cuid(), new_cuid()
    upload = Upload(
        id=upload_id,
        project_id=project_id,
        file_name=safe_name(url),
        storage_key=f"{upload_id}.json",
        format=UploadFormat.JSON_LINES,
        url=url,
    )
    with transaction() as session:
        claim_key(session, job_id)
        plan = make_job(session, job_id, upload, options.model_copy(update={"force": force}))
    return Submission(plan.job_id, plan, size_bytes=None, estimated_records=None)


def fetch_upload(held: Claim, upload: Upload, options: IngestOptions) -> None:
    """Fetch an upload into storage and note its size and hash.

    Raises:
        InputError: the server is refused, what it gives is too large, or the project has the same bytes.
        TransientError: the server does not answer for now.
        FatalError: it refused, or did not answer in any of `MAX_FETCHES` attempts.
    """
    settings = get_settings()
    try:
        with open_url(
            str(upload.url),
            max_bytes=settings.max_upload_bytes,
            seconds=settings.fetch_seconds,
            allow_private=settings.allow_private_urls,
        ) as source:
            stored = get_storage().put(
                upload.storage_key, LeasedReader(source), max_bytes=settings.max_upload_bytes
            )
    except TransientError as error:
        if held.fence >= MAX_FETCHES:
            raise FatalError(f"{error} (after {held.fence} attempts); `retry` asks again") from error
        raise
    with transaction() as session:
        if not options.force:
            refuse_same_bytes(session, upload.project_id, stored.sha256)
        session.execute(
            update(Upload)
            .where(Upload.id == upload.id)
            .values(size_bytes=stored.size_bytes, sha256=stored.sha256)
        )
