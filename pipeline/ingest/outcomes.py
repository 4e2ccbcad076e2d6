"""What became of each row of a chunk: one byte a row, deflated, so that a few skipped rows take a few bytes.

A row is known by its place in the chunk; its line and its fields are read again from the stored upload.
"""

import zlib
from typing import Self

from schemas.enums import SkipReason

SAVED = 0
# Stored with chunks: a number is never used for another reason.
_CODES = {
    SkipReason.MALFORMED: 1,
    SkipReason.INVALID_CHARACTERS: 2,
    SkipReason.EMPTY_CONTENT: 3,
    SkipReason.KEYWORD_MISMATCH: 4,
    SkipReason.DUPLICATE_ID: 5,
}
_REASONS = {code: reason for reason, code in _CODES.items()}


class Outcomes:
    """The outcomes of a chunk's rows, in their order; a row counts as saved until it is skipped.

    Args:
        count: the number of rows.
    """

    def __init__(self, count: int) -> None:
        self._codes = bytearray(count)

    def skip(self, place: int, reason: SkipReason) -> None:
        """Say that the row at `place` (from 0) is skipped.

        Raises:
            IndexError: the chunk has no such row.
        """
        self._codes[place] = _CODES[reason]

    def reason(self, place: int) -> SkipReason | None:
        """Tell why a row was skipped; None where it was saved."""
        return _REASONS.get(self._codes[place])

    def count(self) -> dict[str, int]:
        """Count the skipped rows by reason; reasons that did not occur are left out."""
        counts = {reason: self._codes.count(code) for code, reason in _REASONS.items()}
        return {str(reason): count for reason, count in counts.items() if count}

    def pack(self) -> bytes | None:
        """Give the form that is stored; None where every row was saved."""
        return zlib.compress(self._codes) if any(self._codes) else None

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read the stored form."""
        codes = zlib.decompress(data)
        outcomes = cls(len(codes))
        outcomes._codes[:] = codes
        return outcomes
