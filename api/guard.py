"""What holds for every answer and every caller: security headers, and a bound to the rate of requests."""

import hashlib
import logging

from flask import Flask, Response, current_app, request
from flask_limiter import Limiter
from limits import parse, parse_many
from limits.errors import StorageError
from werkzeug.exceptions import TooManyRequests

from pipeline.errors import InputError
from pipeline.servers import endpoints
from pipeline.settings import get_settings

log = logging.getLogger(__name__)

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Answers are for who has the token.
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_GUESSES = parse("60/minute")
_NAME = "opspipe rates"
# The page of the documentation brings its own script and style along, and styles its parts by itself.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'"
)


def register_guard(app: Flask) -> None:
    """Bound the rate of requests, and put the headers on each answer.

    Raises:
        InputError: OPSPIPE_RATE_LIMIT is no rate.
    """
    app.after_request(_add_headers)
    rate = get_settings().rate_limit
    if not rate:
        return
    try:
        parse_many(rate)
    except ValueError as error:
        raise InputError(
            f"OPSPIPE_RATE_LIMIT is {rate!r}: set a rate such as 1200/minute, or nothing"
        ) from error
    broker = endpoints().broker_url
    app.extensions[_NAME] = Limiter(
        _caller,
        app=app,
        application_limits=[rate],
        # One count for all web processes, where the broker can keep it.
        storage_uri=broker if broker.startswith("redis") else "memory://",
        storage_options={"wrap_exceptions": "true"},
        key_prefix="opspipe:rate:",
        strategy="sliding-window-counter",
        headers_enabled=True,
        # A broker that is away stops nobody: each process counts by itself meanwhile.
        in_memory_fallback_enabled=True,
    )


def note_guess() -> None:
    """Count a request whose token is none: who guesses has another token each time, and the same address.

    Whoever has a valid token comes through, from the same address too.

    Raises:
        TooManyRequests: there were too many from this address.
    """
    limiter: Limiter | None = current_app.extensions.get(_NAME)
    if limiter is None:
        return
    try:
        is_bearable = limiter.limiter.hit(_GUESSES, "guesses", _address())
    except StorageError as error:
        log.warning("guesses of tokens are not counted: %s", error)
        return
    if not is_bearable:
        raise TooManyRequests(
            "too many requests without a valid token came from this address: come back in a minute",
            retry_after=60,
        )


def _caller() -> str:
    """Tell callers apart: by their token, else by their address."""
    token = request.headers.get("Authorization", "")
    return hashlib.sha256(token.encode()).hexdigest() if token else _address()


def _address() -> str:
    return request.remote_addr or "nowhere"


def _add_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if response.mimetype == "text/html":
        response.headers["Content-Security-Policy"] = _PAGE_POLICY
    return response
