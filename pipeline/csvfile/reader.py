"""The one `csv.reader` that every part of the package reads with, and the faults of a record.

Nothing here knows of chunks or of a file's header.
"""

import csv
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pipeline.errors import EmptyFileError, InputError

if TYPE_CHECKING:
    from _csv import Reader

# The module's default of 131,072 characters refuses real fields. The largest value a C long holds everywhere;
# the limit belongs to the process, not to a reader, so it is set once, here.
csv.field_size_limit(2**31 - 1)


def make_reader(lines: Iterable[str], delimiter: str) -> "Reader":
    """Make the reader: RFC 4180, strict, so that text after a closing quote is an error and not a guess.

    After a `csv.Error` the reader goes on with fresh state at the next line.

    Args:
        lines: physical lines with their line ends (LF, CRLF or a lone CR), never split or joined elsewhere.
        delimiter: one character.
    """
    return csv.reader(lines, delimiter=delimiter, strict=True)


class EndAwareLines:
    """Lines that know whether the reader has asked for one more than there are.

    The reader raises the same `csv.Error` for text after a closing quote, which it does before it asks for
    another line, and for a quote that is still open at the end, which it does after that.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = lines
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        yield from self._lines
        self.ended = True


def unclosed_quote(line: int) -> InputError:
    """Make the error of a record whose quoted field is still open where the file ends."""
    return InputError(
        f"the record that starts in line {line} has a quoted field that is never closed: look in line {line} "
        'for a " at the start of a field without a closing " before the next delimiter or line end, '
        'and write a " that belongs to the text as ""'
    )


def oversized_record(line: int, max_record_bytes: int, *, quoted: bool) -> InputError:
    """Make the error of a record that grows beyond the limit, most often behind an unclosed quote."""
    if quoted:
        advice = (
            f'look from line {line} on for a " at the start of a field that is never closed; '
            'write a " that belongs to the text as ""'
        )
    else:
        advice = f"check that line {line} ends with a line break and holds one record"
    return InputError(
        f"the record that starts in line {line} is larger than {max_record_bytes:,} bytes: {advice}, "
        "or raise OPSPIPE_MAX_RECORD_BYTES if the record is meant to be that large"
    )


def no_data_record() -> EmptyFileError:
    """Make the error of a file that ends with its header."""
    return EmptyFileError("the file has a header but no data record: add at least one row below the header")
