"""The HTTP door on a real port."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session
from werkzeug.serving import make_server

from api import create_app
from pipeline.database import transaction
from pipeline.projects import ensure_project
from pipeline.settings import get_settings
from pipeline.tokens import create_token, ensure_first_token
from pipeline.users import create_user
from schemas.enums import UserRole
from tests.api.client import Client
from tests.api.webserver import WebServer


@pytest.fixture(scope="module")
def port(servers: None) -> Iterator[int]:  # noqa: ARG001 - it must run
    server = make_server("127.0.0.1", 0, create_app(), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(port: int, session: Session) -> Client:  # noqa: ARG001 - an empty database
    return Client(port)


@pytest.fixture
def admin(client: Client) -> Client:
    with transaction() as session:
        client.token = ensure_first_token(session)
    return client


@pytest.fixture
def project_id(session: Session) -> str:
    project = ensure_project(session, "demo")
    session.commit()
    return project.id


@pytest.fixture
def sign_in(port: int, session: Session) -> Callable[[str, UserRole], Client]:
    """Make a user of a role, and a client with a token of theirs."""

    def _sign_in(email: str, role: UserRole) -> Client:
        made = Client(port)
        create_user(session, email, role)
        made.token = create_token(session, email=email, name="t")
        session.commit()
        return made

    return _sign_in


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A storage of this test's own."""
    yield from _stored_in(tmp_path / "uploads", monkeypatch)


def _stored_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("OPSPIPE_STORAGE_URL", f"file://{folder}")
    get_settings.cache_clear()
    yield folder
    get_settings.cache_clear()


@pytest.fixture(scope="module")
def _web_server(
    servers: None,  # noqa: ARG001 - it must run
    tmp_path_factory: pytest.TempPathFactory,
    wait: Callable[..., None],
) -> Iterator[WebServer]:
    server = WebServer(tmp_path_factory.mktemp("web"), wait)
    yield server
    server.kill()


@pytest.fixture
def uploads(_web_server: WebServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The empty storage of the web server."""
    shutil.rmtree(_web_server.uploads, ignore_errors=True)
    yield from _stored_in(_web_server.uploads, monkeypatch)


@pytest.fixture
def web_server(
    _web_server: WebServer,
    uploads: Path,  # noqa: ARG001 - it must run
    session: Session,  # noqa: ARG001 - an empty database
) -> WebServer:
    """A real gunicorn, the same one for all tests of a module that leave it as it is."""
    if not _web_server.is_running or _web_server.environment:
        _web_server.start()
    return _web_server
