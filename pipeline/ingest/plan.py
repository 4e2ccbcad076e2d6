"""Planning a load: the whole file is read once, and split into chunks, before the first row is stored.

What cannot be split as it is, is stored once more in a form that can: a CSV in UTF-8, a row of JSON a line.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from pipeline import flow
from pipeline.csvfile import ChunkSpan, Utf8Reader, inspect_head, needs_transcoding, plan_file
from pipeline.database import transaction
from pipeline.errors import FatalError, InputError
from pipeline.ingest.context import LoadContext, find_upload
from pipeline.ingest.fetched import fetch_upload
from pipeline.jsonfile import RowLines
from pipeline.lease import LeasedReader, check_lease
from pipeline.ledger import Claim, PlannedChunk
from pipeline.settings import get_settings
from pipeline.storage import FileStorage, get_storage
from schemas.enums import UploadFormat
from schemas.options import IngestOptions
from schemas.own import Upload


def plan_load(held: Claim) -> None:
    """Split a job's upload into chunks of whole records and count them all.

    Raises:
        FatalError: the file cannot be read to its end (an unclosed quote, a wrong byte); nothing was stored.
        TransientError: it is to be fetched, and its server does not answer for now.
        LeaseLostError: somebody else planned it, or the job was stopped.
    """
    upload, options = find_upload(held), IngestOptions.model_validate(held.options)
    try:
        if upload.url is not None and upload.sha256 is None:
            fetch_upload(held, upload, options)
        plan = _plan_json if upload.format == UploadFormat.JSON_LINES else _plan_csv
        context, spans = plan(get_storage(), upload, options)
    except InputError as error:
        raise FatalError(str(error)) from error
    chunks = [
        PlannedChunk({"start": span.start, "end": span.end, "first_line": span.first_line}, span.record_count)
        for span in spans
    ]
    with transaction() as session:
        flow.finish_plan(session, held, chunks, context=context.model_dump(mode="json"))


def _plan_csv(
    storage: FileStorage, upload: Upload, options: IngestOptions
) -> tuple[LoadContext, Sequence[ChunkSpan]]:
    settings, key = get_settings(), upload.storage_key
    with storage.open(key) as source:
        encoding = inspect_head(source, delimiter=options.delimiter, encoding=options.encoding).encoding
        is_foreign = needs_transcoding(encoding)
        if is_foreign:
            source.seek(0)
            key = f"{upload.id}.utf8.csv"
            storage.put(key, LeasedReader(Utf8Reader(source, encoding)))
    with storage.open(key) as source:
        plan = plan_file(
            source,
            chunk_rows=settings.chunk_rows,
            chunk_bytes=settings.chunk_bytes,
            max_record_bytes=settings.max_record_bytes,
            delimiter=options.delimiter,
            encoding=options.encoding,
            transcoded_from=encoding if is_foreign else None,
            on_progress=lambda _: check_lease(),
        )
    context = LoadContext(
        project_id=upload.project_id,
        source=f"csv:{upload.file_name}",
        storage_key=key,
        format=UploadFormat.CSV,
        header=plan.header,
        delimiter=plan.delimiter,
        encoding=plan.encoding,
        loaded_at=_now(),
    )
    return context, plan.chunks


def _plan_json(
    storage: FileStorage, upload: Upload, _options: IngestOptions
) -> tuple[LoadContext, Sequence[ChunkSpan]]:
    settings, key = get_settings(), f"{upload.id}.rows"
    with storage.open(upload.storage_key) as source:
        lines = RowLines(
            source,
            chunk_rows=settings.chunk_rows,
            chunk_bytes=settings.chunk_bytes,
            max_record_bytes=settings.max_record_bytes,
        )
        storage.put(key, LeasedReader(lines))
    context = LoadContext(
        project_id=upload.project_id,
        source=f"api:{upload.url}",
        storage_key=key,
        format=UploadFormat.JSON_LINES,
        encoding="utf-8",
        loaded_at=_now(),
    )
    return context, lines.chunks


def _now() -> datetime:
    """Give the job's one time of loading: a row does not depend on the chunk that it is in."""
    return datetime.now(UTC).replace(tzinfo=None)
