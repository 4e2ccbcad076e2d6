"""The fields of a record that strict reading refuses, to be shown to people. None is loaded from here."""

import csv
import io


def read_leniently(data: bytes, *, delimiter: str) -> list[str]:
    """Give the fields of a malformed record as a forgiving reader sees them.

    Text after a closing quote is taken for a part of the field.

    Args:
        data: the record's lines in UTF-8.
        delimiter: as the plan found it.
    """
    text = data.decode("utf-8", "surrogatepass")
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=False), [])
