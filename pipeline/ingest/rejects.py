"""The rows of a job that became no record, as a CSV that can be corrected and submitted again.

Only a row's place and reason are kept; its line and its fields are read again from the stored upload.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipeline.csvfile import read_chunk, read_leniently
from pipeline.errors import ConflictError, NotFoundError
from pipeline.ingest.context import LoadContext
from pipeline.ingest.outcomes import Outcomes
from pipeline.ingest.rejectfile import REJECT_COLUMNS, is_reject_header, protect, restore_fields
from pipeline.jsonfile import JsonRow, read_rows
from pipeline.storage import FileStorage, get_storage
from pipeline.uploads import find_upload
from schemas.enums import Stage, UploadFormat
from schemas.own import WorkChunk, WorkStage

_BLOCK_CHARACTERS = 64 * 1024


@dataclass(frozen=True)
class RejectedRow:
    """A row that became no record: its line in the file (from 1), why, and its fields as written."""

    line: int
    reason: str
    fields: list[str]


def write_rejects(session: Session, job_id: str) -> Iterator[bytes]:
    """Write a job's rejected rows so far, in the order of the file, as CSV in UTF-8.

    Its columns are those of `rejectfile.REJECT_COLUMNS` and then the file's own. A value that a spreadsheet
    would run as a formula has an apostrophe before it, which is taken away again when the CSV is submitted.

    Args:
        session: read before this returns; the rows are read from storage while the result is iterated.
        job_id: the whole id of an ingest job.

    Raises:
        NotFoundError: there is no such ingest job, or its upload was removed.
        ConflictError: the file was not planned yet, so that nothing is known of its rows.
    """
    stage = session.get(WorkStage, (job_id, Stage.LOAD))
    if stage is None:
        raise NotFoundError(f"there is no ingest job {job_id!r}")
    if stage.planned_at is None:
        raise ConflictError(f"the file of job {job_id} was not read yet: try again when it is being loaded")
    chunks = session.execute(
        select(WorkChunk.span, WorkChunk.outcomes)
        .where(WorkChunk.job_id == job_id, WorkChunk.stage == Stage.LOAD, WorkChunk.outcomes.is_not(None))
        .order_by(WorkChunk.number)
    ).all()
    find_upload(session, job_id)
    context, storage = LoadContext.model_validate(stage.context), get_storage()
    storage.open(context.storage_key).close()
    rejected = [(span, Outcomes.unpack(outcomes)) for span, outcomes in chunks]
    if context.format is UploadFormat.CSV:
        return _write(
            restore_fields(context.header) if is_reject_header(context.header) else context.header,
            (row for span, outcomes in rejected for row in _read_csv(storage, context, span, outcomes)),
        )
    # Objects have names of their own each: a column for every name that any of them has.
    names = dict.fromkeys(
        name
        for span, outcomes in rejected
        for row, _ in _read_json(storage, context, span, outcomes)
        for name in row.names
    )
    return _write(
        list(names),
        (
            RejectedRow(row.line, reason, _in_order(row, names))
            for span, outcomes in rejected
            for row, reason in _read_json(storage, context, span, outcomes)
        ),
    )


def _read_csv(
    storage: FileStorage, context: LoadContext, span: dict[str, int], outcomes: Outcomes
) -> Iterator[RejectedRow]:
    data = storage.read_range(context.storage_key, span["start"], span["end"])
    rows = read_chunk(data, first_line=span["first_line"], delimiter=context.delimiter)
    for place, (row, following) in enumerate(pairwise(chain(rows, [None]))):
        if row is None or (reason := outcomes.reason(place)) is None:
            continue
        fields = row.fields
        if fields is None:
            first, last = row.line - span["first_line"], following and following.line - span["first_line"]
            fields = read_leniently(_lines(data, first, last), delimiter=context.delimiter)
        if is_reject_header(context.header):
            fields = restore_fields(fields)
        yield RejectedRow(row.line, reason, fields)


def _lines(data: bytes, first: int, last: int | None) -> bytes:
    return b"".join(data.splitlines(keepends=True)[first:last])


def _read_json(
    storage: FileStorage, context: LoadContext, span: dict[str, int], outcomes: Outcomes
) -> Iterator[tuple[JsonRow, str]]:
    data = storage.read_range(context.storage_key, span["start"], span["end"])
    for place, row in enumerate(read_rows(data)):
        if (reason := outcomes.reason(place)) is not None:
            yield row, reason


def _in_order(row: JsonRow, names: Iterable[str]) -> list[str]:
    values = dict(zip(row.names, row.values, strict=True))
    return [values.get(name) or "" for name in names]


def _write(header: Sequence[str], rows: Iterable[RejectedRow]) -> Iterator[bytes]:
    sink = io.StringIO(newline="")
    writer = csv.writer(sink)
    writer.writerow([*REJECT_COLUMNS, *map(protect, header)])
    for row in rows:
        writer.writerow([row.line, row.reason, *map(protect, row.fields)])
        if sink.tell() > _BLOCK_CHARACTERS:
            yield _encode(sink.getvalue())
            sink.seek(0)
            sink.truncate()
    yield _encode(sink.getvalue())


def _encode(text: str) -> bytes:
    """Encode as UTF-8; half a surrogate pair, which that cannot hold, becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
