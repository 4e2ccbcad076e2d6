"""The names of a file's columns."""

from collections.abc import Sequence
from itertools import count

from pipeline.errors import InputError


def name_columns(fields: Sequence[str]) -> tuple[str, ...]:
    """Make a unique name of each field of a header.

    Names are trimmed; a blank one becomes `column_N` (its position, from 1); a repeated one gets `_2`, `_3`
    and so on. A name made here is never one that the header has elsewhere.

    Raises:
        InputError: a name holds a NUL or half of a surrogate pair, which the database cannot store.
    """
    names = [field.strip() for field in fields]
    _check_characters(names)
    given = {name for name in names if name}
    used: set[str] = set()
    next_suffix: dict[str, count[int]] = {}
    unique = []
    for position, name in enumerate(names, start=1):
        base = name or f"column_{position}"
        chosen = base
        # A name of the header's own is free for its first column; a made one is not where the header has it.
        while chosen in used or (chosen in given and chosen != name):
            chosen = f"{base}_{next(next_suffix.setdefault(base, count(2)))}"
        used.add(chosen)
        unique.append(chosen)
    return tuple(unique)


def _check_characters(names: list[str]) -> None:
    for position, name in enumerate(names, start=1):
        if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
            raise InputError(
                f"the name of column {position}, {name!r}, holds a NUL or an unpaired surrogate: "
                "mend the header, or submit the file again with its encoding if that is UTF-16 without a mark"
            )
