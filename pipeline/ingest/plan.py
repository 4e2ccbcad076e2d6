"""Planning a load: one streaming pass that finds every record's place, before the first row is stored."""

from datetime import UTC, datetime

from pipeline import flow
from pipeline.csvfile import FilePlan, Utf8Reader, inspect_head, needs_transcoding, plan_file
from pipeline.database import transaction
from pipeline.errors import FatalError, InputError
from pipeline.ingest.context import LoadContext, find_upload
from pipeline.ledger import Claim, PlannedChunk
from pipeline.settings import get_settings
from pipeline.storage import FileStorage, get_storage
from schemas.options import IngestOptions
from schemas.own import Upload


def plan_load(held: Claim) -> None:
    """Split a job's upload into chunks of whole records and count them all.

    Raises:
        FatalError: the file cannot be read to its end (an unclosed quote, a wrong byte); nothing was stored.
        LeaseLostError: somebody else planned it, or the job was stopped.
    """
    upload = find_upload(held)
    try:
        key, plan = _plan_csv(get_storage(), upload, IngestOptions.model_validate(held.options))
    except InputError as error:
        raise FatalError(str(error)) from error
    context = LoadContext(
        project_id=upload.project_id,
        source=f"csv:{upload.file_name}",
        storage_key=key,
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


def _plan_csv(storage: FileStorage, upload: Upload, options: IngestOptions) -> tuple[str, FilePlan]:
    """Plan a CSV file; one that is not in UTF-8 is turned into it first, and stored so."""
    settings, key = get_settings(), upload.storage_key
    with storage.open(key) as source:
        encoding = inspect_head(source, delimiter=options.delimiter, encoding=options.encoding).encoding
        is_foreign = needs_transcoding(encoding)
        if is_foreign:
            source.seek(0)
            key = f"{upload.id}.utf8.csv"
            storage.put(key, Utf8Reader(source, encoding))
    with storage.open(key) as source:
        return key, plan_file(
            source,
            chunk_rows=settings.chunk_rows,
            chunk_bytes=settings.chunk_bytes,
            max_record_bytes=settings.max_record_bytes,
            delimiter=options.delimiter,
            encoding=options.encoding,
            transcoded_from=encoding if is_foreign else None,
        )
