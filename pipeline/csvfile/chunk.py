"""The rows of one chunk of a file."""

import csv
from collections.abc import Iterator
from operator import methodcaller
from typing import NamedTuple

from pipeline.csvfile.reader import EndAwareLines, make_reader, unclosed_quote


class Row(NamedTuple):
    """One record of a file: the physical line that it starts in (from 1) and its fields as written.

    `fields` is None where text follows a closing quote, so that the record cannot be read.
    """

    line: int
    fields: list[str] | None


def read_chunk(data: bytes, *, first_line: int, delimiter: str) -> Iterator[Row]:
    """Read the rows of a chunk as the plan cut it; blank lines are none.

    Args:
        data: whole records of the file's form in UTF-8.
        first_line: the physical line of the file that `data` starts with, from 1.
        delimiter: as the plan found it.

    Raises:
        InputError: a quoted field is open at the end of `data`, which no planned chunk has.
    """
    # Surrogates are those of a transcoded file; in others the plan lets none through.
    decode = methodcaller("decode", "utf-8", "surrogatepass")
    lines = EndAwareLines(map(decode, data.splitlines(keepends=True)))
    reader = make_reader(lines, delimiter)
    line = first_line
    while True:
        try:
            for fields in reader:
                if fields:
                    yield Row(line, fields)
                line = first_line + reader.line_num
        except csv.Error:
            if lines.ended:
                raise unclosed_quote(line) from None
            yield Row(line, None)
            line = first_line + reader.line_num
        else:
            return
