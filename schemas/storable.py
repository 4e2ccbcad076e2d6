"""What a text must not hold so that PostgreSQL stores it, or looks for it."""

from typing import Annotated

from pydantic import AfterValidator


def check_storable(value: str) -> str:
    """Give a text back that PostgreSQL stores.

    Raises:
        ValueError: it holds a NUL.
    """
    if "\0" in value:
        raise ValueError("it holds a NUL, which no text has and PostgreSQL does not store")
    return value


def check_all_storable(value: object) -> object:
    """Give anything back whose texts, however deep, PostgreSQL stores; a ValueError as `check_storable`."""
    if isinstance(value, str):
        check_storable(value)
    elif isinstance(value, dict):
        check_all_storable([*value.keys(), *value.values()])
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_all_storable(item)
    return value


CheckStorable = AfterValidator(check_storable)
Storable = Annotated[str, CheckStorable]
