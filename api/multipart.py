"""Multipart forms with one file, which goes straight into storage while the form is parsed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, cast

from flask import request
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from api.streams import open_body
from pipeline.errors import InputError
from pipeline.settings import get_settings
from pipeline.storage import IncomingFile, get_storage
from schemas.names import check_file_name

# Boundaries, headers and fields come on top of the file itself.
_FORM_BYTES = 1024 * 1024
# Of a part's headers, of a field, and of what stands before and behind all parts; each is held in memory.
_FIELD_BYTES = 256 * 1024
_MOST_PARTS = 32


@dataclass(frozen=True)
class SentForm:
    """A form as it was sent; its file is in storage, under no key yet."""

    fields: dict[str, str]
    file: IncomingFile
    file_name: str


class _FilePart:
    """What the parser writes the file into; of its own it seeks to the beginning at the end."""

    def __init__(self, incoming: IncomingFile) -> None:
        self.write = incoming.write

    def seek(self, offset: int, /) -> int:
        return offset


class _Storing:
    """Begins a file in storage when the parser meets the part that holds one."""

    def __init__(self) -> None:
        self.incoming: IncomingFile | None = None
        self.file_name = ""

    def __call__(
        self,
        total_content_length: int | None,  # noqa: ARG002 - what the parser passes
        content_type: str | None,  # noqa: ARG002
        filename: str | None,
        content_length: int | None = None,  # noqa: ARG002
    ) -> IO[bytes]:
        if self.incoming is not None:
            raise InputError("the form holds more than one file: send each in a request of its own")
        try:
            self.file_name = check_file_name(filename or "")
        except ValueError as error:
            raise InputError(str(error)) from None
        self.incoming = get_storage().begin(max_bytes=get_settings().max_upload_bytes)
        return cast("IO[bytes]", _FilePart(self.incoming))


@contextmanager
def read_form() -> Iterator[SentForm]:
    """Read a multipart form whose field `file` is a file, in whatever order its parts come.

    The file is removed when the block ends, unless it was stored under a key.

    Raises:
        InputError: it is no such form.
        TooLargeError: the file, or the body, is larger than uploads may be.
        ClientDisconnected: the client hung up.
    """
    if request.mimetype != "multipart/form-data":
        raise InputError("send the file as multipart/form-data, or JSON with csvData or uploadId")
    storing = _Storing()
    try:
        fields, files = _parse(storing)
        if storing.incoming is None or "file" not in files:
            raise InputError("file is missing: send the CSV as the multipart field `file`, with a file name")
        yield SentForm(_single(fields), storing.incoming, storing.file_name)
    finally:
        if storing.incoming is not None:
            storing.incoming.discard()


def _parse(storing: _Storing) -> tuple[MultiDict[str, str], MultiDict[str, object]]:
    parser = FormDataParser(
        stream_factory=storing,
        max_form_memory_size=_FIELD_BYTES,
        max_form_parts=_MOST_PARTS,
        silent=False,
    )
    body = cast("IO[bytes]", open_body(extra=_FORM_BYTES))
    try:
        _, fields, files = parser.parse(
            body, request.mimetype, request.content_length, dict(request.mimetype_params)
        )
    except RequestEntityTooLarge:
        raise InputError(
            f"the form has more than {_MOST_PARTS} parts, or one beside the file of more than "
            f"{_FIELD_BYTES:,} bytes: a file is a part with a file name"
        ) from None
    except ValueError:
        raise InputError(
            "the form cannot be read: it was cut short, or a part has no headers or boundary"
        ) from None
    return fields, cast("MultiDict[str, object]", files)


def _single(fields: MultiDict[str, str]) -> dict[str, str]:
    """Give each field's value.

    Raises:
        InputError: a field has no name or several values.
    """
    for name, values in fields.lists():
        if not name:
            raise InputError("a part of the form has no name: give it one, or leave it out")
        if len(values) > 1:
            raise InputError(f"the form holds {name} {len(values)} times: send it once")
    return fields.to_dict()
