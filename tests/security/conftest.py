"""A real web server with somebody of every role, two owners of projects, and something of each kind."""

from collections.abc import Callable, Iterator

import pytest

from tests.api.webserver import WebServer
from tests.security.world import World, make_world


@pytest.fixture(scope="module")
def server(
    servers: None,  # noqa: ARG001 - it must run
    tmp_path_factory: pytest.TempPathFactory,
    wait: Callable[..., None],
) -> Iterator[WebServer]:
    """A real gunicorn that counts no requests."""
    server = WebServer(tmp_path_factory.mktemp("web"), wait)
    server.start(OPSPIPE_RATE_LIMIT="", OPSPIPE_METRICS="true")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def world(server: WebServer) -> World:
    return make_world(server.port)
