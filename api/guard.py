"""What holds for every answer and every caller: security headers, and a bound to the rate of requests."""

from flask import Flask, Response

from api.rates import register_rates

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Answers are for who has the token.
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
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
    register_rates(app)


def _add_headers(response: Response) -> Response:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if response.mimetype == "text/html":
        response.headers["Content-Security-Policy"] = _PAGE_POLICY
    return response
