"""The plan of a file: how it is read, how many records it has, and chunks of whole records."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from pipeline.csvfile.head import parse_head, parse_utf8_head, read_head
from pipeline.csvfile.reader import no_data_record
from pipeline.csvfile.scan import Places, RecordScanner
from pipeline.csvfile.transcode import needs_transcoding
from pipeline.errors import InputError


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """A run of whole records: bytes from `start` up to, not including, `end` of the file in UTF-8.

    `first_line` is the physical line (from 1) at `start`, where the first record starts.
    """

    start: int
    end: int
    first_line: int
    record_count: int


@dataclass(frozen=True)
class FilePlan:
    """How a file is read and split. `total_records` counts malformed records too, the header not.

    `encoding` is the file's own; the chunks are places in its form in UTF-8.
    """

    header: tuple[str, ...]
    delimiter: str
    encoding: str
    total_records: int
    chunks: tuple[ChunkSpan, ...]


def plan_file(
    source: BinaryIO,
    *,
    chunk_rows: int,
    chunk_bytes: int,
    max_record_bytes: int,
    delimiter: str | None = None,
    encoding: str | None = None,
    transcoded_from: str | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> FilePlan:
    """Read a file once, from its start to its end, and split it into chunks.

    Memory is bounded by `max_record_bytes` and a block of the file, whatever the file's size.

    Args:
        source: the file's bytes in UTF-8, at its start: as submitted, or as `Utf8Reader` gave them.
        chunk_rows: the most records of a chunk.
        chunk_bytes: the most bytes of a chunk; a chunk of one record may have more.
        max_record_bytes: a record larger than this is refused.
        delimiter: wins over detection.
        encoding: wins over a byte order mark.
        transcoded_from: the encoding of the original, where `source` came from `Utf8Reader`; it is not
            checked again, and may hold unpaired surrogates.
        on_progress: called after each block of 256 KiB with the number of bytes read so far.

    Raises:
        EmptyFileError: there is no header or no data record.
        InputError: a byte is not UTF-8, a quote is never closed, a record is too large, or the header or an
            option cannot be used. The message names the line.
    """
    head_bytes, complete = read_head(source)
    if transcoded_from is not None:
        head = parse_utf8_head(head_bytes, complete=complete, delimiter=delimiter, encoding=transcoded_from)
    else:
        head = parse_head(head_bytes, complete=complete, delimiter=delimiter, encoding=encoding)
        if needs_transcoding(head.encoding):
            raise InputError(f"the file is in {head.encoding}: it is planned from its form in UTF-8 only")
    scanner = RecordScanner(
        source,
        head_bytes[head.body_start :],
        offset=head.body_start,
        line=head.body_line,
        delimiter=head.delimiter,
        max_record_bytes=max_record_bytes,
        is_checked=transcoded_from is not None,
        on_progress=on_progress,
    )
    chunks = tuple(_group(scanner.places(), chunk_rows, chunk_bytes))
    if not chunks:
        raise no_data_record()
    total = sum(chunk.record_count for chunk in chunks)
    return FilePlan(head.header, head.delimiter, head.encoding, total, chunks)


def _group(blocks: Iterable[Places], chunk_rows: int, chunk_bytes: int) -> Iterator[ChunkSpan]:
    """Close a chunk before the record that would make it too large, but never without a record."""
    count = first_line = chunk_start = chunk_end = 0
    for lines, starts, ends in blocks:
        taken = 0
        while taken < len(ends):
            if not count:
                first_line, chunk_start = int(lines[taken]), int(starts[taken])
            fitting = int(np.searchsorted(ends, chunk_start + chunk_bytes, side="right"))
            # The first record of a chunk fits always, a further one only as the chunk allows.
            stop = max(min(taken + chunk_rows - count, fitting), taken + (not count))
            if stop > taken:
                count, chunk_end, taken = count + stop - taken, int(ends[stop - 1]), stop
            if taken < len(ends):
                yield ChunkSpan(chunk_start, chunk_end, first_line, count)
                count = 0
    if count:
        yield ChunkSpan(chunk_start, chunk_end, first_line, count)
