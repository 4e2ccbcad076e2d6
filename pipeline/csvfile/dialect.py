"""Which delimiter a file uses: found in its head, or given."""

import csv

from pipeline.csvfile.reader import make_reader
from pipeline.errors import InputError

DELIMITERS = (",", ";", "\t", "|")

_SAMPLE_RECORDS = 500
# A short record is legal (its missing fields are null) but speaks less for a delimiter than a full one.
_SHORT_WEIGHT = 0.5


def check_delimiter(delimiter: str) -> str:
    r"""Give back a delimiter that can be one.

    Raises:
        InputError: it is not one ASCII character, or one that quotes or ends lines.
    """
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
        raise InputError(
            f"{delimiter!r} cannot be a delimiter: give one ASCII character such as a comma, semicolon or tab"
        )
    return delimiter


def detect_delimiter(lines: list[str]) -> str:
    """Choose among comma, semicolon, tab and bar.

    The header decides which can be one at all; among those, how many of the first records have as many
    fields as the header, then the number of fields, then the order above. A comma where the header is one
    column whatever the delimiter.

    Args:
        lines: the file's first lines, complete and with their ends.
    """
    scores = [(_score(lines, delimiter), -rank) for rank, delimiter in enumerate(DELIMITERS)]
    return DELIMITERS[-max(scores)[1]]


def _score(lines: list[str], delimiter: str) -> tuple[bool, float, int]:
    """Give whether the header has several columns, the share of records that fit it, and its width."""
    widths = _widths(lines, delimiter)
    header = widths[0] if widths else 0
    if header < 2:  # noqa: PLR2004 - one column is no sign of a delimiter
        return False, 0.0, 0
    records = widths[1:]
    full = sum(width == header for width in records)
    short = sum(1 < width < header for width in records)
    return True, (full + _SHORT_WEIGHT * short) / max(1, len(records)), header


def _widths(lines: list[str], delimiter: str) -> list[int]:
    """Count the fields of each record; 0 for one that this delimiter makes malformed."""
    widths: list[int] = []
    reader = make_reader(lines, delimiter)
    while reader.line_num < len(lines) and len(widths) < _SAMPLE_RECORDS:
        try:
            fields = next(reader)
        except csv.Error:
            widths.append(0)
            continue
        if fields and (widths or any(map(str.strip, fields))):
            widths.append(len(fields))
    return widths
