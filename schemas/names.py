"""The name that a user knows a file by: shown, never used as a path."""

from typing import Annotated

from pydantic import AfterValidator

_MOST_CHARACTERS = 255


def check_file_name(value: str) -> str:
    """Give a file's name as it is, where it is one.

    Raises:
        ValueError: it is empty, too long, a path, or holds what cannot be shown.
    """
    if not value.strip():
        raise ValueError("the file has no name: send one, as in filename=batch.csv")
    if len(value) > _MOST_CHARACTERS:
        raise ValueError(f"the file's name has more than {_MOST_CHARACTERS} characters: shorten it")
    if not value.isprintable():
        raise ValueError("the file's name holds control characters: send a plain name")
    if "/" in value or "\\" in value or value in {".", ".."}:
        raise ValueError("the file's name is a path: send the name alone, without folders")
    return value


FileName = Annotated[str, AfterValidator(check_file_name)]
