"""Planning a load: one streaming pass that finds every record's place, before the first row is stored."""

from datetime import UTC, datetime

from pipeline import flow
from pipeline.csvfile import plan_file
from pipeline.database import transaction
from pipeline.errors import FatalError, InputError
from pipeline.ingest.context import LoadContext, find_upload
from pipeline.lease import check_lease
from pipeline.ledger import Claim, PlannedChunk
from pipeline.settings import get_settings
from pipeline.storage import get_storage
from schemas.options import IngestOptions


def plan_load(held: Claim) -> None:
    """Split a job's upload into chunks of whole records and count them all.

    Raises:
        FatalError: the file cannot be read to its end (an unclosed quote, a wrong byte); nothing was stored.
        LeaseLostError: somebody else planned it, or the job was stopped.
    """
    settings, options = get_settings(), IngestOptions.model_validate(held.options)
    upload = find_upload(held)
    try:
        with get_storage().open(upload.storage_key) as source:
            plan = plan_file(
                source,
                chunk_rows=settings.chunk_rows,
                chunk_bytes=settings.chunk_bytes,
                max_record_bytes=settings.max_record_bytes,
                delimiter=options.delimiter,
                encoding=options.encoding,
                on_progress=lambda _: check_lease(),
            )
    except InputError as error:
        raise FatalError(str(error)) from error
    context = LoadContext(
        project_id=upload.project_id,
        file_name=upload.file_name,
        storage_key=upload.storage_key,
        header=plan.header,
        delimiter=plan.delimiter,
        encoding=plan.encoding,
        # One time of loading for the whole job: a row does not depend on the chunk that it is in.
        loaded_at=datetime.now(UTC).replace(tzinfo=None),
    )
    chunks = [
        PlannedChunk(
            {"start": chunk.start, "end": chunk.end, "first_line": chunk.first_line}, chunk.record_count
        )
        for chunk in plan.chunks
    ]
    with transaction() as session:
        flow.finish_plan(session, held, chunks, context=context.model_dump(mode="json"))
