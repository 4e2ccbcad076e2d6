"""The form of a CSV of rejected rows: columns of our own first, values that no spreadsheet runs.

Such a file can be corrected and submitted again: what was added to it is taken away where its rows are read.
"""

import re
from collections.abc import Sequence

# Where the row stood in the file, and why it became no record. Nobody else's columns have these names.
REJECT_COLUMNS = ("opspipe_line", "opspipe_reason")

# What a spreadsheet runs as a formula; with apostrophes before it, so that restoring gives each value back.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_PROTECTED = re.compile(r"'+[=+\-@\t\r]")


def protect(value: str) -> str:
    """Put an apostrophe before a value that a spreadsheet would run as a formula."""
    return f"'{value}" if _FORMULA.match(value) else value


def restore(value: str) -> str:
    """Take the apostrophe of `protect` away."""
    return value[1:] if _PROTECTED.match(value) else value


def is_reject_header(header: Sequence[str]) -> bool:
    """Tell whether a file's columns are those of a CSV of rejected rows."""
    return tuple(header[: len(REJECT_COLUMNS)]) == REJECT_COLUMNS


def restore_fields(fields: Sequence[str]) -> list[str]:
    """Give the fields of a row as they stood in the file that the row was rejected from."""
    return [restore(field) for field in fields[len(REJECT_COLUMNS) :]]
