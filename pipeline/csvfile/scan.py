"""Where each record of a file starts and ends, found in one streaming pass of bounded memory."""

import csv
from collections.abc import Callable, Iterator
from itertools import accumulate, chain
from typing import BinaryIO

from pipeline.csvfile.encoding import check_utf8
from pipeline.csvfile.lines import as_latin1, complete_length
from pipeline.csvfile.reader import make_reader, oversized_record, unclosed_quote

BLOCK_BYTES = 256 * 1024

# Physical line (from 1) and byte offset where a record starts, byte offset where it ends.
RecordPlace = tuple[int, int, int]


class RecordScanner:
    """Reads a file's body block by block and places its records.

    The lines go to one `csv.reader`, which decides where records end; it takes one line at a time, so its
    line count gives the byte offset after each record. It is fed bytes as Latin-1 (see `lines.as_latin1`).

    Args:
        source: the file's bytes, behind those of `head`.
        head: the first bytes of the body, read already.
        offset: where `head` starts in the file.
        line: the physical line that `head` starts with, from 1.
        delimiter: one ASCII character.
        max_record_bytes: a record larger than this is refused.
        on_progress: called after each block with the number of the file's bytes that were read.
    """

    def __init__(
        self,
        source: BinaryIO,
        head: bytes,
        *,
        offset: int,
        line: int,
        delimiter: str,
        max_record_bytes: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self._source, self._head = source, head
        self._delimiter, self._max_record_bytes = delimiter, max_record_bytes
        self._on_progress = on_progress
        self._first_line = line
        # Where the record being read starts.
        self._start, self._line = offset, line
        # Of the block being read: how many lines came before it, and the offsets between its lines.
        self._lines_before, self._edges = 0, [offset]
        self._ended = False

    def places(self) -> Iterator[RecordPlace]:
        """Place every record, malformed ones included, blank lines not.

        Raises:
            InputError: a byte is not UTF-8, a quote is never closed, or a record is too large.
        """
        reader = make_reader(chain.from_iterable(self._blocks()), self._delimiter)
        while True:
            try:
                for fields in reader:
                    place = self._close_record(reader.line_num)
                    if fields:
                        yield place
            except csv.Error:
                if self._ended:
                    raise unclosed_quote(self._line) from None
                yield self._close_record(reader.line_num)
            else:
                return

    def _close_record(self, line_count: int) -> RecordPlace:
        """Give the place of the record that ends with the `line_count`-th line of the body."""
        line, start, end = self._line, self._start, self._edges[line_count - self._lines_before]
        self._line, self._start = self._first_line + line_count, end
        if end - start > self._max_record_bytes:
            # Only quotes make a record of several lines.
            raise oversized_record(line, self._max_record_bytes, quoted=self._line > line + 1)
        return line, start, end

    def _blocks(self) -> Iterator[list[str]]:
        """Give the lines of the body block by block, each when the reader has used up the one before."""
        block, pending = self._head, b""
        while block or (block := self._source.read(BLOCK_BYTES)):
            pending += block
            self._check(pending, final=False)
            cut = complete_length(pending)
            yield self._take(pending[:cut])
            block, pending = b"", pending[cut:]
            self._refuse_growth(pending)
        self._check(pending, final=True)
        yield self._take(pending)
        self._ended = True

    def _take(self, data: bytes) -> list[str]:
        lines = data.splitlines(keepends=True)
        self._lines_before += len(self._edges) - 1
        self._edges = list(accumulate(map(len, lines), initial=self._edges[-1]))
        return as_latin1(lines)

    def _check(self, pending: bytes, *, final: bool) -> None:
        """Check what was read beyond the lines that were taken, and say how far the file was read."""
        taken, line_count = self._edges[-1], self._lines_before + len(self._edges) - 1
        check_utf8(pending, offset=taken, line=self._first_line + line_count, final=final)
        if self._on_progress:
            self._on_progress(taken + len(pending))

    def _refuse_growth(self, pending: bytes) -> None:
        """Refuse a record as soon as it is too large, before more of it is held in memory."""
        taken = self._edges[-1]
        if taken + len(pending) - self._start > self._max_record_bytes:
            raise oversized_record(self._line, self._max_record_bytes, quoted=self._start < taken)
