"""The rows of a chunk as records, or why they become none, in whichever format the upload is."""

from collections.abc import Iterator

from pipeline.csvfile import read_fields
from pipeline.ingest.context import LoadContext
from pipeline.ingest.rows import Record, RowOptions, RowReader, row_options
from pipeline.jsonfile import JsonRow, read_rows
from schemas.enums import SkipReason, UploadFormat
from schemas.options import IngestOptions

# Objects of one batch have a few sets of names; of more than this the reader is made anew.
_MOST_READERS = 1_000


def read_records(context: LoadContext, options: IngestOptions, data: bytes) -> Iterator[Record | SkipReason]:
    """Read the rows of a chunk, in their order.

    Args:
        context: how the plan found the file to be read.
        options: the job's.
        data: the chunk's bytes as they are stored.

    Raises:
        InputError: the mapping names a column that a CSV file has not.
    """
    rows = row_options(options)
    if context.format is UploadFormat.JSON_LINES:
        return map(_JsonReader(rows).read, read_rows(data))
    reader = RowReader(context.header, rows, may_hold_nul=b"\0" in data)
    return map(reader.read, read_fields(data, delimiter=context.delimiter))


class _JsonReader:
    """Reads rows with names of their own each; what they mean is found out once for each set of names."""

    def __init__(self, options: RowOptions) -> None:
        self._options = options
        self._readers: dict[tuple[str, ...], tuple[RowReader, int]] = {}

    def read(self, row: JsonRow) -> Record | SkipReason:
        if row.fault is not None:
            return row.fault
        reader, missing = self._reader(row.names)
        values = [value and value.strip() for value in row.values] + [None] * missing
        return reader.read_values(values, not_text=row.not_text)

    def _reader(self, names: tuple[str, ...]) -> tuple[RowReader, int]:
        found = self._readers.get(names)
        if found is None:
            # A mapped column that this object has not is null, as a missing field of a CSV file is.
            missing = [column for column in self._options.mapping.values() if column not in names]
            found = RowReader((*names, *missing), self._options), len(missing)
            if len(self._readers) == _MOST_READERS:
                self._readers.clear()
            self._readers[names] = found
        return found
