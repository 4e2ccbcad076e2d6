"""The records of a file's body, placed in one streaming pass of bounded memory."""

from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from pipeline.csvfile.encoding import check_utf8
from pipeline.csvfile.lines import complete_length
from pipeline.csvfile.reader import oversized_record, unclosed_quote
from pipeline.csvfile.records import Numbers, find_records

BLOCK_BYTES = 256 * 1024


class Places(NamedTuple):
    """Of some records: the physical line (from 1) and the byte that each starts with, and where it ends."""

    lines: Numbers
    starts: Numbers
    ends: Numbers


class RecordScanner:
    """Reads a file's body block by block and places its records.

    What is held of the file always begins where a record starts: what is read next is added to it, and the
    records that are complete in it are taken from it.

    Args:
        source: the file's bytes, behind those of `head`.
        head: the first bytes of the body, read already.
        offset: where `head` starts in the file.
        line: the physical line that `head` starts with, from 1.
        delimiter: one ASCII character.
        max_record_bytes: a record larger than this is refused.
        is_checked: the bytes are known to be UTF-8, unpaired surrogates allowed.
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
        is_checked: bool = False,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        self._source, self._head = source, head
        self._delimiter, self._max_record_bytes = delimiter, max_record_bytes
        self._is_checked, self._on_progress = is_checked, on_progress
        # What is held, where it starts, and how many bytes of it are known to be UTF-8.
        self._held, self._offset, self._line, self._checked = b"", offset, line, 0

    def places(self) -> Iterator[Places]:
        """Place every record, malformed ones included, blank lines not, some at a time.

        Raises:
            InputError: a byte is not UTF-8, a quote is never closed, or a record is too large.
        """
        block = self._head
        while block or (block := self._source.read(self._read_size())):
            self._held += block
            block = b""
            self._check(final=False)
            yield self._take(self._held[: complete_length(self._held)])
            self._refuse_growth()
        self._check(final=True)
        # The file's end ends the last line.
        yield self._take(self._held if self._held.endswith((b"\n", b"\r")) else self._held + b"\n")
        if self._held:
            raise unclosed_quote(self._line)

    def _read_size(self) -> int:
        """Let a record of many blocks double at each read: it is searched anew from its start each time."""
        return max(BLOCK_BYTES, min(len(self._held), self._max_record_bytes - len(self._held)))

    def _take(self, lines: bytes) -> Places:
        """Place the records that end in the first lines of what is held, and let go of these."""
        records = find_records(lines, self._delimiter)
        if not len(records.ends):
            return Places(records.ends, records.ends, records.ends)
        ends = records.ends
        ends[-1] = min(ends[-1], len(self._held))
        starts = np.concatenate(([0], ends[:-1]))
        first_lines = np.concatenate(([0], records.line_counts[:-1])) + self._line
        if len(lines) > self._max_record_bytes:
            self._refuse_large(ends - starts, first_lines, records.line_counts)
        codes = np.frombuffer(lines, np.uint8)[starts]
        places = Places(first_lines, starts + self._offset, ends + self._offset)
        self._let_go(int(ends[-1]), int(records.line_counts[-1]))
        is_blank = (codes == ord("\n")) | (codes == ord("\r"))
        return Places(*(numbers[~is_blank] for numbers in places)) if is_blank.any() else places

    def _let_go(self, size: int, line_count: int) -> None:
        self._held = self._held[size:]
        self._offset += size
        self._line += line_count
        self._checked -= size

    def _check(self, *, final: bool) -> None:
        """Check what was read last, and say how far the file was read."""
        if not self._is_checked:
            self._checked = check_utf8(
                self._held, self._checked, offset=self._offset, line=self._line, final=final
            )
        if self._on_progress:
            self._on_progress(self._offset + len(self._held))

    def _refuse_large(self, sizes: Numbers, first_lines: Numbers, line_counts: Numbers) -> None:
        large = np.flatnonzero(sizes > self._max_record_bytes)
        if len(large):
            line, last_line = int(first_lines[large[0]]), self._line + int(line_counts[large[0]]) - 1
            # Only quotes make a record of several lines.
            raise oversized_record(line, self._max_record_bytes, quoted=last_line > line)

    def _refuse_growth(self) -> None:
        """Refuse a record as soon as it is too large, before more of it is held in memory."""
        if len(self._held) > self._max_record_bytes:
            quoted = complete_length(self._held) > 0
            raise oversized_record(self._line, self._max_record_bytes, quoted=quoted)
