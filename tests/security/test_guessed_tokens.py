"""Guessed, broken and old tokens: 401 each, whatever the trick, and only so many from an address."""

import hashlib
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import text

from pipeline.database import transaction
from pipeline.tokens import make_token, revoke_token
from pipeline.users import create_user, delete_user
from schemas.enums import UserRole
from tests.api.webserver import WebServer
from tests.security.raw import request, send
from tests.security.world import World

# What is sent instead of a token; {} is one that would be let in.
GUESSES = {
    "nothing": "",
    "the scheme alone": "Bearer",
    "the scheme and a space": "Bearer ",
    "no scheme": "{}",
    "another scheme": "Basic {}",
    "the token as a scheme": "{} Bearer",
    "the prefix alone": "Bearer otk_",
    "zeros": "Bearer otk_" + "0" * 64,
    "in capitals": "Bearer UPPER",
    "one digit less": "Bearer SHORT",
    "one digit more": "Bearer {}0",
    "without its prefix": "Bearer BARE",
    "its SHA-256": "Bearer HASH",
    "its SHA-256 with the prefix": "Bearer otk_HASH",
    "in quotes": 'Bearer "{}"',
    "two tokens": "Bearer {} {}",
    "two tokens with a comma": "Bearer {}, Bearer {}",
    "as a parameter": "Bearer token={}",
    "another scheme before it": "Basic x, Bearer {}",
    "a wildcard": "Bearer otk_%",
    "SQL": "Bearer ' OR 1=1 --",
    "JSON": 'Bearer {"$ne": null}',
    "null": "Bearer null",
    "undefined": "Bearer undefined",
    "bytes that are no text": "Bearer \xff\xfe\xe9",
    "four thousand digits": "Bearer otk_" + "a" * 4000,
}


def answer_to(world: World, *headers: str, path: str = "/api/projects") -> int:
    answer = send(world.port, request("GET", path, *headers))
    if answer.status == 401:
        assert b'"AUTH_REQUIRED"' in answer.body
    return answer.status


def spoilt(guess: str, token: str) -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    words = {"{}": token, "UPPER": token.upper(), "SHORT": token[:-1], "BARE": token[4:], "HASH": digest}
    for word, value in words.items():
        guess = guess.replace(word, value)
    return guess


@pytest.mark.parametrize("name", GUESSES)
def test_a_guess_is_refused(world: World, name: str) -> None:
    token = world.tokens[UserRole.ADMIN]
    assert answer_to(world, f"Authorization: {spoilt(GUESSES[name], token)}") == 401


@pytest.mark.parametrize(
    "headers",
    [
        ["X-Authorization: Bearer {}"],
        ["Proxy-Authorization: Bearer {}"],
        ["Cookie: token={}; Authorization=Bearer {}"],
        ["X-Forwarded-User: admin@localhost", "X-Forwarded-For: 127.0.0.1", "X-Real-IP: 127.0.0.1"],
        ["X-Original-URL: /api/status", "X-Rewrite-URL: /api/status"],
        ["Authorization_: Bearer {}"],
        ["Authorization : Bearer {}"],
        ["Authorization: Bearer x", "Authorization: Bearer {}"],
        ["Authorization: Bearer {}", "Authorization: Bearer x"],
        ["Authorization: Bearer {}", "Authorization: Bearer {}"],
    ],
)
def test_a_token_counts_only_in_one_header_of_its_own(world: World, headers: list[str]) -> None:
    token = world.tokens[UserRole.ADMIN]
    # 400 is of the web server, for names that are none.
    assert answer_to(world, *(header.replace("{}", token) for header in headers)) in {400, 401}


@pytest.mark.parametrize("path", ["?token={}", "?access_token={}", "?Authorization=Bearer%20{}"])
def test_a_token_in_the_address_lets_nobody_in(world: World, path: str) -> None:
    assert answer_to(world, path="/api/projects" + path.format(world.tokens[UserRole.ADMIN])) == 401


def test_a_token_that_was_valid_lets_nobody_in(world: World) -> None:
    with transaction() as session:
        user = create_user(session, f"gone-{world.project_id}@example.org", UserRole.ADMIN)
        revoked, expired, orphaned = (
            make_token(session, email=user.email, name=name, expires_in=timedelta(days=1)) for name in "abc"
        )
        revoke_token(session, revoked.id)
        session.execute(
            text("UPDATE api_tokens SET expires_at = now() - interval '1 second' WHERE id = :id"),
            {"id": expired.id},
        )
    assert answer_to(world, f"Authorization: Bearer {orphaned.token}") == 200
    with transaction() as session:
        delete_user(session, user.id)
    for made in (revoked, expired, orphaned):
        assert answer_to(world, f"Authorization: Bearer {made.token}") == 401


def test_an_address_may_guess_only_so_often(
    servers: None,  # noqa: ARG001 - it must run
    tmp_path_factory: pytest.TempPathFactory,
    wait: Callable[..., None],
) -> None:
    limited = WebServer(tmp_path_factory.mktemp("limited"), wait)
    limited.start()
    try:
        # Another token and another false address each time.
        found = []
        for number in range(70):
            trick = f"X-Forwarded-For: 10.0.0.{number}"
            guess = request("GET", "/api/projects", trick, token=f"otk_{number:064}")
            found.append(send(limited.port, guess))
        with transaction() as session:
            user = create_user(session, "guessed@example.com", UserRole.ADMIN)
            known = make_token(session, email=user.email, name="t").token
        let_in = send(limited.port, request("GET", "/api/projects", token=known))
    finally:
        limited.kill()
    assert {answer.status for answer in found[:55]} == {401}
    assert found[-1].status == 429
    assert found[-1].header("Retry-After")
    # Who has a token may come from the same address, as through the same proxy.
    assert let_in.status == 200
