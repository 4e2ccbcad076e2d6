"""Errors turned into the one envelope of contract.md, section 5, without stack trace, SQL or secret."""

import logging
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, jsonify
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from pipeline.errors import (
    AnswerError,
    ChecksumError,
    ConflictError,
    DuplicateError,
    EmptyFileError,
    FatalError,
    NotFoundError,
    OffsetError,
    PermanentError,
    PipelineError,
    ServerError,
    StorageError,
    TooLargeError,
    TransientError,
)
from schemas.bodies import ErrorAnswer

log = logging.getLogger(__name__)

# The first class that fits decides. 422 is never used.
_STATUS: tuple[tuple[type[PipelineError], int], ...] = (
    (NotFoundError, 404),
    (DuplicateError, 409),
    (ConflictError, 409),
    (EmptyFileError, 400),
    (TooLargeError, 413),
    (OffsetError, 409),
    # Of the tus protocol; HTTP has none of its own for it.
    (ChecksumError, 460),
    (AnswerError, 502),
    (PermanentError, 400),
    (ServerError, 502),
    (TransientError, 503),
    # In a request nothing else cannot go on but a model that is refused or not set.
    (FatalError, 502),
)
_BAD_GATEWAY, _SERVER_FAULT = 502, 500
_HTTP_CODES = {
    401: "AUTH_REQUIRED",
    403: "INSUFFICIENT_PERMISSIONS",
    404: "RESOURCE_NOT_FOUND",
    413: "PAYLOAD_TOO_LARGE",
    429: "RATE_LIMITED",
    503: "DATABASE_ERROR",
}


class WrongRequestError(Exception):
    """A request is not as its model says; the cause is pydantic's error."""


def register_errors(app: Flask) -> None:
    """Have every error of a request answered by the envelope."""
    app.register_error_handler(PipelineError, _pipeline_error)
    app.register_error_handler(WrongRequestError, _wrong_request)
    app.register_error_handler(ValidationError, _validation_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected_error)


def _envelope(
    status: int, code: str, error: str, details: Mapping[str, Any] | None = None
) -> tuple[Response, int]:
    body = ErrorAnswer(error=error, code=code, details=dict(details or {}))
    return jsonify(body.model_dump(mode="json")), status


def _pipeline_error(error: PipelineError) -> tuple[Response, int]:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), _SERVER_FAULT)
    if status == _BAD_GATEWAY:
        return _envelope(status, "AI_SERVICE_ERROR", str(error), {"reason": error.code})
    if isinstance(error, StorageError):
        log.error("the storage fails: %s", error)
        return _envelope(status, error.code, "uploads cannot be stored or read for now: try again later")
    if isinstance(error, TransientError):
        return _envelope(status, "DATABASE_ERROR", "the database is not available: try again shortly")
    job_id = getattr(error, "job_id", None)
    return _envelope(status, error.code, str(error), {"jobId": job_id} if job_id else None)


def _wrong_request(error: WrongRequestError) -> tuple[Response, int]:
    if not isinstance(error.__cause__, ValidationError):
        raise error
    return _validation_error(error.__cause__)


def _validation_error(error: ValidationError) -> tuple[Response, int]:
    fields = {".".join(map(str, item["loc"])): item["msg"] for item in error.errors(include_url=False)}
    message = "; ".join(f"{name}: {reason}" if name else reason for name, reason in fields.items())
    return _envelope(400, "INVALID_INPUT", message, {"fields": fields})


def _http_error(error: HTTPException) -> tuple[Response, int]:
    status = error.code or _SERVER_FAULT
    code = _HTTP_CODES.get(status, "INVALID_INPUT")
    response, status = _envelope(status, code, error.description or error.name)
    # What a client needs to go on: which methods there are, when to come back.
    for name, value in error.get_headers():
        if name in {"Allow", "Retry-After", "WWW-Authenticate"}:
            response.headers[name] = value
    return response, status


def _unexpected_error(error: Exception) -> tuple[Response, int]:
    # What went wrong stays in the log.
    log.error("unexpected error", exc_info=error)
    return _envelope(500, "INTERNAL_ERROR", "something unexpected went wrong; the log has it")
