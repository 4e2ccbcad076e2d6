"""Real servers for the tests: one PostgreSQL and one Valkey a test process, emptied between tests.

Worker processes are started where a test asks for them.
"""

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import literal, text
from sqlalchemy.orm import Session

# A shell that starts the tests in the background has SIGINT ignored, and what they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Set before anything reads the settings: a test never touches the user's own home or servers.
for _name in [name for name in os.environ if name.startswith("OPSPIPE_")]:
    del os.environ[_name]
HOME = Path(tempfile.mkdtemp(prefix="opspipe-test-"))
HOME.chmod(0o755)
os.environ["OPSPIPE_HOME"] = str(HOME)
os.environ["OPSPIPE_DURABLE"] = "false"
os.environ["OPSPIPE_TEMPORARY"] = "true"

from pipeline import database  # noqa: E402 - after the environment
from pipeline.ai import close_providers  # noqa: E402
from pipeline.migrations import upgrade  # noqa: E402
from pipeline.servers import endpoints, release  # noqa: E402
from pipeline.settings import get_settings  # noqa: E402
from pipeline.system_settings import write_setting  # noqa: E402
from schemas.base import Base  # noqa: E402
from tests.ai_server import AiServer  # noqa: E402
from tests.workers import Workers  # noqa: E402

_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def servers() -> Iterator[None]:
    """Run the embedded servers as long as the tests of this process."""
    try:
        endpoints()
        upgrade(database.get_engine())
        with pytest.MonkeyPatch.context() as patch:
            # It has just been started, which prolongs leases: those that a test ends are to end.
            patch.setattr("pipeline.ledger.conditions.back_since", lambda: literal(_LONG_AGO))
            yield
    finally:
        database.forget_engine(close=True)
        release()


def pytest_unconfigure() -> None:
    """Remove the home; after the servers in it have stopped."""
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture
def empty_database(servers: None) -> None:  # noqa: ARG001 - it must run
    """Empty every table."""
    names = ", ".join(table.fullname for table in Base.metadata.sorted_tables if table.name != "audit_log")
    with database.get_engine().begin() as connection:
        connection.execute(text(f"TRUNCATE {names} CASCADE"))
        # The log is only added to, and nobody is let through but who owns the table.
        connection.execute(text("ALTER TABLE audit_log DISABLE TRIGGER opspipe_keep_audit_log"))
        connection.execute(text("TRUNCATE audit_log"))
        connection.execute(text("ALTER TABLE audit_log ENABLE TRIGGER opspipe_keep_audit_log"))


@pytest.fixture
def session(empty_database: None) -> Iterator[Session]:  # noqa: ARG001 - it must run
    """A session on the empty, migrated database."""
    with Session(database.get_engine(), expire_on_commit=False) as opened:
        yield opened


@pytest.fixture
def database_url(servers: None) -> str:  # noqa: ARG001 - it must run
    return database.sqlalchemy_url(endpoints().database_url)


def wait_until(condition: Callable[[], bool], *, seconds: float = 30.0, what: str = "the condition") -> None:
    """Wait for a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {seconds} s")
        time.sleep(0.05)


@pytest.fixture(scope="session")
def wait() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def workers(empty_database: None) -> Iterator[Workers]:  # noqa: ARG001 - it must run
    """Make workers that are killed at the end of the test; the queues are empty at its start."""
    from redis import Redis  # noqa: PLC0415 - only here

    with Redis.from_url(endpoints().broker_url) as broker:
        broker.flushall()
    made = Workers()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def shared_data() -> Path:
    """The folder of real files, where there is one."""
    if not SHARED.is_dir():
        pytest.skip(f"the real files are not here ({SHARED.name} beside the repository)")
    return SHARED


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ten rows a load chunk and twenty records a batch, for this process and the workers it starts."""
    monkeypatch.setenv("OPSPIPE_CHUNK_ROWS", "10")
    monkeypatch.setenv("OPSPIPE_EMBED_BATCH", "20")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


class Site:
    """A web server on loopback that answers as it is told, path by path, and keeps what it was asked."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.server = server
        self.port = server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        # Path -> what to do with the request; else 404.
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, str]] = []

    def give(
        self, path: str, body: bytes = b"", *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> str:
        """Answer a path with a body; gives its URL."""
        sent = {"Content-Length": str(len(body))} | dict(headers or {})

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            for name, value in sent.items():
                if value:
                    request.send_header(name, value)
            request.end_headers()
            request.wfile.write(body)

        self.answers[path] = answer
        return self.url + path


@pytest.fixture
def site() -> Iterator[Site]:
    """A real web server for what is fetched."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append((self.path, self.headers["Host"]))
            answer = found.answers.get(self.path)
            if answer is None:
                self.send_error(404)
            else:
                answer(self)

        def log_message(self, *arguments: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Site(server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def ai_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AiServer]:
    """A server of models that does as it is told; nothing is known yet of how its models count."""
    monkeypatch.setattr("pipeline.ai.tokens._corrections", {})
    server = AiServer().start()
    yield server
    close_providers()
    server.stop()


@pytest.fixture
def open_transactions(servers: None) -> Callable[[], int]:  # noqa: ARG001 - it must run
    """Count the transactions that are open at this moment, but for those of the counting itself."""

    def _count() -> int:
        with database.get_engine().connect() as connection:
            question = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND xact_start IS NOT NULL AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return int(connection.scalar(text(question)) or 0)

    return _count


@pytest.fixture
def other_server() -> Iterator[AiServer]:
    """Another server of models."""
    server = AiServer().start()
    yield server
    close_providers()
    server.stop()


@pytest.fixture
def use_ai_server(session: Session, ai_server: AiServer) -> AiServer:
    """The same, set as the provider of this installation."""
    values = {
        "ai_provider": "lmstudio",
        "ai_host": ai_server.url,
        "embedding_model": "embedder",
        "llm_model": "chatter",
    }
    for key, value in values.items():
        write_setting(session, key, value)
    session.commit()
    return ai_server
