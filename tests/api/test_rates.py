"""How often a caller may ask, by a real web server."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from flask import Flask
from werkzeug.exceptions import TooManyRequests

from api.rates import Rates
from pipeline.database import transaction
from pipeline.errors import InputError
from pipeline.servers.embedded import free_port
from pipeline.tokens import make_token
from pipeline.users import create_user
from schemas.enums import UserRole
from tests.api.webserver import WebServer
from tests.security.raw import request, send


@pytest.fixture
def limited(empty_database: None, tmp_path: Path, wait: Callable[..., None]) -> Iterator[WebServer]:  # noqa: ARG001 - it must run
    """A web server that answers a caller five times in a minute."""
    server = WebServer(tmp_path, wait)
    server.start(OPSPIPE_RATE_LIMIT="5/minute")
    try:
        yield server
    finally:
        server.kill()


def test_a_token_may_ask_so_often_and_another_one_too(limited: WebServer) -> None:
    with transaction() as session:
        create_user(session, "ann@example.org", UserRole.USER)
        ann, other = (make_token(session, email="ann@example.org", name=name).token for name in "ab")
    answers = [send(limited.port, request("GET", "/api/projects", token=ann)) for _ in range(7)]
    assert [answer.status for answer in answers] == [200] * 5 + [429] * 2
    assert 1 <= int(answers[-1].header("Retry-After") or 0) <= 60
    assert b"RATE_LIMITED" in answers[-1].body
    assert b"5 per 1 minute" in answers[-1].body
    assert send(limited.port, request("GET", "/api/projects", token=other)).status == 200


def asked(rates: Rates, count: int) -> int:
    """Count the requests that are let through."""
    let_through = 0
    for _ in range(count):
        with Flask(__name__).test_request_context(), suppress(TooManyRequests):
            rates.bound()
            let_through += 1
    return let_through


def test_a_broker_that_is_away_stops_nobody_and_does_not_let_everybody_through() -> None:
    rates = Rates("3/minute", f"redis://127.0.0.1:{free_port()}/0")
    assert asked(rates, 8) == 3


def test_a_broker_that_cannot_count_is_not_asked() -> None:
    assert asked(Rates("3/minute", "amqp://127.0.0.1:1//"), 8) == 3


@pytest.mark.parametrize("rate", ["many", "5/fortnight", "-1/minute"])
def test_what_is_no_rate_is_told(rate: str) -> None:
    with pytest.raises(InputError, match="OPSPIPE_RATE_LIMIT"):
        Rates(rate, "amqp://x")
