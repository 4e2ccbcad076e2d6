"""`/api/uploads`: files in pieces over lines that break, by the protocol tus 1.0.0.

See https://tus.io/protocols/resumable-upload: core, creation, creation-with-upload, termination, checksum and
expiration. A finished upload becomes a job by `uploadId` of `POST /api/ingest/csv`.
"""

import base64
import binascii
from collections.abc import Callable
from uuid import UUID

from flask import Blueprint, Response, request, url_for
from werkzeug.exceptions import MethodNotAllowed, PreconditionFailed, UnsupportedMediaType
from werkzeug.http import http_date

from api.access import bearer
from api.streams import open_body
from pipeline.errors import InputError
from pipeline.resumable import (
    CHECKSUMS,
    Checksum,
    ResumableUpload,
    append_piece,
    create_upload,
    find_upload,
    remove_upload,
)
from pipeline.settings import get_settings
from schemas.names import check_file_name

blueprint = Blueprint("tus", __name__, url_prefix="/api/uploads")

_VERSION = "1.0.0"
_EXTENSIONS = "creation,creation-with-upload,termination,checksum,expiration"
_PIECE = "application/offset+octet-stream"
# More digits are no number of bytes.
_MOST_DIGITS = 18


@blueprint.before_request
def check_version() -> None:
    """See that the client speaks the protocol's version that is spoken here."""
    if request.method != "OPTIONS" and request.headers.get("Tus-Resumable") != _VERSION:
        raise PreconditionFailed(f"send the header Tus-Resumable: {_VERSION}")


@blueprint.after_request
def say_version(response: Response) -> Response:
    """Put the protocol's version on every answer."""
    response.headers["Tus-Resumable"] = response.headers["Tus-Version"] = _VERSION
    return response


@blueprint.route("", methods=["OPTIONS"])
@blueprint.route("/<upload_id>", methods=["OPTIONS"])
def describe(upload_id: str = "") -> Response:  # noqa: ARG001 - the same for all
    """Say what of the protocol is spoken here."""
    headers = {
        "Tus-Extension": _EXTENSIONS,
        "Tus-Max-Size": str(get_settings().max_upload_bytes),
        "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
    }
    return Response(status=204, headers=headers)


@blueprint.post("")
def create() -> Response:
    """Begin an upload, with its first bytes where the body has some, and answer with its address."""
    profile_id = bearer().profile_id
    if "Upload-Defer-Length" in request.headers:
        raise InputError("an upload whose length is not known is not taken: send Upload-Length")
    length, checksum = _read_number("Upload-Length"), _read_checksum()
    metadata = request.headers.get("Upload-Metadata", "")
    upload = create_upload(profile_id, length, metadata=metadata, file_name=_read_file_name(metadata))
    if request.mimetype == _PIECE:
        try:
            upload = _append(upload.id, profile_id=profile_id, offset=0, checksum=checksum)
        except BaseException:
            # Its address was told to nobody.
            remove_upload(upload.id, profile_id)
            raise
    headers = _state_headers(upload) | {"Location": url_for("tus.append", upload_id=upload.id)}
    return Response(status=201, headers=headers)


@blueprint.route("/<upload_id>", methods=["HEAD"])
def look_up(upload_id: str) -> Response:
    """Say how much of an upload is there."""
    upload = find_upload(upload_id, bearer().profile_id)
    headers = _state_headers(upload) | {"Upload-Length": str(upload.length), "Cache-Control": "no-store"}
    if upload.metadata:
        headers["Upload-Metadata"] = upload.metadata
    return Response(status=200, headers=headers)


@blueprint.patch("/<upload_id>")
def append(upload_id: str) -> Response:
    """Append the body to an upload and answer with where it ends then."""
    profile_id = bearer().profile_id
    if request.mimetype != _PIECE:
        raise UnsupportedMediaType(f"send the piece as Content-Type: {_PIECE}")
    offset, checksum = _read_number("Upload-Offset"), _read_checksum()
    upload = _append(upload_id, profile_id=profile_id, offset=offset, checksum=checksum)
    return Response(status=204, headers=_state_headers(upload))


@blueprint.delete("/<upload_id>")
def remove(upload_id: str) -> Response:
    """Remove an upload, finished or not."""
    remove_upload(upload_id, bearer().profile_id)
    return Response(status=204)


_METHODS: dict[str, Callable[[str], Response]] = {"HEAD": look_up, "PATCH": append, "DELETE": remove}


@blueprint.post("/<upload_id>")
def override(upload_id: str) -> Response:
    """Do what the header X-HTTP-Method-Override says, for clients that know no other methods than POST."""
    found = _METHODS.get(request.headers.get("X-HTTP-Method-Override", ""))
    if found is None:
        raise MethodNotAllowed(list(_METHODS), "an upload knows HEAD, PATCH and DELETE")
    return found(upload_id)


def _append(upload_id: str, *, profile_id: UUID, offset: int, checksum: Checksum | None) -> ResumableUpload:
    return append_piece(
        upload_id,
        profile_id,
        open_body(),
        offset=offset,
        size=request.content_length,
        checksum=checksum,
    )


def _state_headers(upload: ResumableUpload) -> dict[str, str]:
    return {"Upload-Offset": str(upload.offset), "Upload-Expires": http_date(upload.expires_at)}


def _read_number(name: str) -> int:
    value = request.headers.get(name, "")
    if not (value.isascii() and value.isdecimal() and len(value) <= _MOST_DIGITS):
        raise InputError(f"the header {name} must be a number of bytes, not {value!r}")
    return int(value)


def _read_checksum() -> Checksum | None:
    value = request.headers.get("Upload-Checksum")
    if value is None:
        return None
    algorithm, _, digest = value.partition(" ")
    if algorithm not in CHECKSUMS:
        raise InputError(f"the checksum {algorithm!r} is not known: use one of {', '.join(CHECKSUMS)}")
    return Checksum(algorithm, _decode("Upload-Checksum", digest))


def _read_file_name(metadata: str) -> str | None:
    """Give the value of `filename`; None where the client has sent none.

    Raises:
        InputError: the metadata cannot be read, or it is no name.
    """
    values: dict[str, bytes] = {}
    for pair in metadata.split(",") if metadata else ():
        key, _, value = pair.strip().partition(" ")
        if not (key and key.isascii() and key.isprintable()) or key in values:
            raise InputError(
                "the header Upload-Metadata has a key that is empty, given twice, or no plain word"
            )
        values[key] = _decode("Upload-Metadata", value)
    if not values.get("filename"):
        return None
    try:
        return check_file_name(values["filename"].decode())
    except ValueError as error:
        raise InputError(f"the metadata filename is not taken: {error}") from None


def _decode(header: str, value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"the header {header} holds {value!r}, which is not Base64") from None
