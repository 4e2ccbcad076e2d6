"""What is described of routes that neither take nor give JSON, by route; `api.openapi` puts it together.

The models of a view say the same of all others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

# Any route may answer so: a wrong call, no token, no right, no such thing, too much, the database away.
ALWAYS = (400, 401, 403, 404, 413, 429, 503)

_NUMBER = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1}
_TEXT = {"type": "string"}
_BINARY = {"type": "string", "format": "binary"}
_PIECE = "application/offset+octet-stream"


@dataclass(frozen=True)
class Header:
    """A header that a route reads."""

    name: str
    schema: Mapping[str, Any]
    is_required: bool = False


@dataclass(frozen=True)
class Plain:
    """A route that answers with no JSON.

    Args:
        answers: what it gives, by status.
        content_type: of what it gives; None where that has no body.
        headers: what it reads of them.
        gives: headers that it answers with.
        body: content type of the body that it takes; None for none.
        needs_body: whether there has to be one.
        fails: statuses of errors besides those of every route.
    """

    answers: Mapping[int, str]
    content_type: str | None = None
    headers: tuple[Header, ...] = ()
    gives: tuple[str, ...] = ()
    body: str | None = None
    needs_body: bool = False
    fails: tuple[int, ...] = field(default=())


_VERSION = Header("Tus-Resumable", {"type": "string", "const": "1.0.0"}, is_required=True)
_CHECKSUM = Header("Upload-Checksum", {"type": "string", "pattern": "^sha(1|256) [A-Za-z0-9+/]+=*$"})
_LENGTH = Header("Upload-Length", _NUMBER, is_required=True)
_METADATA = Header("Upload-Metadata", _TEXT)
_STATE = ("Upload-Offset", "Upload-Expires")

PLAIN: Mapping[str, Plain] = {
    "GET /api/ingest/jobs/<job_id>/rejects.csv": Plain({200: "The rows that became no record."}, "text/csv"),
    "GET /api/ingest/jobs/<job_id>/events": Plain(
        {200: "The job's status, at each change."}, "text/event-stream"
    ),
    "GET /metrics": Plain({200: "Figures for Prometheus, where OPSPIPE_METRICS allows them."}, "text/plain"),
    "OPTIONS /api/uploads": Plain(
        {204: "What of the protocol tus is spoken here."},
        gives=("Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm"),
    ),
    "POST /api/uploads": Plain(
        {201: "The upload has begun; its address is in `Location`."},
        headers=(_VERSION, _LENGTH, _METADATA, _CHECKSUM),
        gives=("Location", *_STATE),
        body=_PIECE,
        fails=(409, 412, 460),
    ),
    "HEAD /api/uploads/<upload_id>": Plain(
        {200: "How much of it is there."},
        headers=(_VERSION,),
        gives=("Upload-Length", *_STATE),
        fails=(412,),
    ),
    "PATCH /api/uploads/<upload_id>": Plain(
        {204: "The piece is appended."},
        headers=(_VERSION, Header("Upload-Offset", _NUMBER, is_required=True), _CHECKSUM),
        gives=_STATE,
        body=_PIECE,
        needs_body=True,
        fails=(409, 412, 415, 460),
    ),
    "DELETE /api/uploads/<upload_id>": Plain({204: "The upload is gone."}, headers=(_VERSION,), fails=(412,)),
    "POST /api/uploads/<upload_id>": Plain(
        {200: "As HEAD answers.", 204: "As PATCH or DELETE answers."},
        headers=(
            _VERSION,
            Header("X-HTTP-Method-Override", {"enum": ["HEAD", "PATCH", "DELETE"]}, is_required=True),
            Header("Upload-Offset", _NUMBER),
            _CHECKSUM,
        ),
        body=_PIECE,
        fails=(405, 409, 412, 415, 460),
    ),
}
# Routes with models whose body is neither JSON nor a form.
RAW_BODIES: Mapping[str, str] = {"PUT /api/projects/<project_id>/guidelines": "application/pdf"}


def raw_body(content_type: str, *, is_required: bool = True) -> dict[str, Any]:
    """Describe a body that is taken as it comes."""
    return {"content": {content_type: {"schema": _BINARY}}, "required": is_required}


def describe_plain(route: str, summary: str) -> dict[str, Any]:
    """Describe a route of `PLAIN` as an operation, but for the parameters in its path."""
    plain = PLAIN[route]
    described: dict[str, Any] = {
        "summary": summary,
        "parameters": [
            {"name": header.name, "in": "header", "required": header.is_required, "schema": header.schema}
            for header in plain.headers
        ],
        "responses": {str(status): _answer(plain, what) for status, what in plain.answers.items()}
        | {str(status): _error(route, status) for status in (*ALWAYS, *plain.fails)},
    }
    if plain.body is not None:
        described["requestBody"] = raw_body(plain.body, is_required=plain.needs_body)
    return described


def _answer(plain: Plain, what: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": what}
    if plain.content_type is not None:
        answer["content"] = {plain.content_type: {}}
    if plain.gives:
        answer["headers"] = {name: {"schema": _TEXT, "required": True} for name in plain.gives}
    return answer


def _error(route: str, status: int) -> dict[str, Any]:
    # 460 is of the tus protocol, and HTTP has no phrase for it.
    phrases = {known.value: known.phrase for known in HTTPStatus} | {460: "Checksum Mismatch"}
    error: dict[str, Any] = {"description": phrases[status]}
    if not route.startswith("HEAD "):
        error["content"] = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    return error
