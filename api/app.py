"""The Flask application: routes put together, and errors turned into the one envelope."""

import logging
from typing import Any

from flask import Flask, Response, jsonify
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from api.ai import blueprint as ai
from api.analytics import blueprint as analytics
from api.ingest import blueprint as ingest
from api.jobs import blueprint as jobs
from api.records import blueprint as records
from api.similarity import blueprint as similarity
from api.status import blueprint as status
from pipeline.errors import (
    AnswerError,
    ConflictError,
    DuplicateError,
    EmptyFileError,
    FatalError,
    NotFoundError,
    PermanentError,
    PipelineError,
    ServerError,
    TransientError,
)
from pipeline.settings import get_settings

log = logging.getLogger(__name__)

# The first class that fits decides. 422 is never used.
_STATUS: tuple[tuple[type[PipelineError], int], ...] = (
    (NotFoundError, 404),
    (DuplicateError, 409),
    (ConflictError, 409),
    (EmptyFileError, 400),
    (AnswerError, 502),
    (PermanentError, 400),
    (ServerError, 502),
    (TransientError, 503),
    # In a request nothing else cannot go on but a model that is refused or not set.
    (FatalError, 502),
)
_BAD_GATEWAY = 502
_HTTP_CODES = {
    401: "AUTH_REQUIRED",
    403: "INSUFFICIENT_PERMISSIONS",
    404: "RESOURCE_NOT_FOUND",
    413: "PAYLOAD_TOO_LARGE",
    429: "RATE_LIMITED",
    503: "DATABASE_ERROR",
}
# Multipart boundaries and fields come on top of the file itself.
_FORM_BYTES = 1024 * 1024


def create_app() -> Flask:
    """Make the WSGI application."""
    app = Flask("api")
    app.config["MAX_CONTENT_LENGTH"] = get_settings().max_upload_bytes + _FORM_BYTES
    app.register_blueprint(status)
    app.register_blueprint(ingest)
    app.register_blueprint(jobs)
    app.register_blueprint(analytics)
    app.register_blueprint(records)
    app.register_blueprint(similarity)
    app.register_blueprint(ai)
    app.register_error_handler(PipelineError, _pipeline_error)
    app.register_error_handler(ValidationError, _validation_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected_error)
    return app


def _envelope(
    status: int, code: str, error: str, details: dict[str, Any] | None = None
) -> tuple[Response, int]:
    return jsonify({"error": error, "code": code, "details": details or {}}), status


def _pipeline_error(error: PipelineError) -> tuple[Response, int]:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if status == _BAD_GATEWAY:
        return _envelope(status, "AI_SERVICE_ERROR", str(error), {"reason": error.code})
    if isinstance(error, TransientError):
        return _envelope(status, "DATABASE_ERROR", "the database is not available: try again shortly")
    job_id = getattr(error, "job_id", None)
    return _envelope(status, error.code, str(error), {"jobId": job_id} if job_id else None)


def _validation_error(error: ValidationError) -> tuple[Response, int]:
    fields = {".".join(map(str, item["loc"])): item["msg"] for item in error.errors(include_url=False)}
    message = "; ".join(f"{name}: {reason}" if name else reason for name, reason in fields.items())
    return _envelope(400, "INVALID_INPUT", message, {"fields": fields})


def _http_error(error: HTTPException) -> tuple[Response, int]:
    status = error.code or 500
    code = _HTTP_CODES.get(status, "INVALID_INPUT")
    return _envelope(status, code, error.description or error.name)


def _unexpected_error(error: Exception) -> tuple[Response, int]:
    # What went wrong stays in the log: no stack trace, SQL or secret leaves the server.
    log.error("unexpected error", exc_info=error)
    return _envelope(500, "INTERNAL_ERROR", "something unexpected went wrong; the log has it")
