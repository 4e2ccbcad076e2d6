"""What a rating says of a record: the table "category" of the record rules."""

import re
from decimal import Decimal
from functools import lru_cache

from schemas.enums import RecordCategory

_WORDS = {
    "top": RecordCategory.TOP_10,
    "selected": RecordCategory.TOP_10,
    "better": RecordCategory.TOP_10,
    "bottom": RecordCategory.BOTTOM_10,
    "rejected": RecordCategory.BOTTOM_10,
    "worse": RecordCategory.BOTTOM_10,
}
# The word, then 10 as a whole number: not in `laptop 10`, `top 100`, `top 10.5` or `top 10,000`.
_TEN = r"(?<![^\W_]){word}[\s_-]*10(?!\d|[.,]\d)"
_TOP_TEN = re.compile(_TEN.format(word="top"))
_BOTTOM_TEN = re.compile(_TEN.format(word="bottom"))
# Unsigned plain decimals are numbers; `1e3`, `+4`, `-3` and `4,5` are words.
_NUMBER = re.compile(r"([0-9]+|[0-9]*\.[0-9]+)\s*(%?)")


# Ratings repeat; what is longer than this is prose, which does not, and would only fill the cache.
_LONGEST_CACHED = 64


def read_category(rating: str) -> RecordCategory | None:
    """Give the category that a rating means; None where it means none.

    Args:
        rating: the value as it stands in the file.
    """
    return _read_cached(rating) if len(rating) <= _LONGEST_CACHED else _read(rating)


def _read(rating: str) -> RecordCategory | None:
    word = rating.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    if _TOP_TEN.search(word):
        return RecordCategory.TOP_10
    if _BOTTOM_TEN.search(word):
        return RecordCategory.BOTTOM_10
    number = _NUMBER.fullmatch(word)
    if number is None:
        return None
    digits, percent = number.groups()
    return _of_percentage(Decimal(digits)) if percent else _of_mark(digits)


_read_cached = lru_cache(maxsize=4096)(_read)


def _of_percentage(value: Decimal) -> RecordCategory | None:
    return _by_bounds(top=value >= 90, bottom=value <= 10)  # noqa: PLR2004 - the rule's own numbers


def _of_mark(digits: str) -> RecordCategory | None:
    """Read a plain number: of 1 where it has a decimal point and fits, else of 5, else of 10."""
    value = Decimal(digits)
    if "." in digits and value <= 1:
        return _by_bounds(top=value > Decimal("0.8"), bottom=value < Decimal("0.2"))
    if value <= 5:  # noqa: PLR2004 - a scale of five
        return _by_bounds(top=value >= 4, bottom=value <= 2)  # noqa: PLR2004 - the rule's own numbers
    return _by_bounds(top=9 <= value <= 10, bottom=False)  # noqa: PLR2004 - the rule's own numbers


def _by_bounds(*, top: bool, bottom: bool) -> RecordCategory | None:
    if top:
        return RecordCategory.TOP_10
    return RecordCategory.BOTTOM_10 if bottom else None
