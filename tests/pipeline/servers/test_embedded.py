"""Embedded servers as real processes: shared, restarted, and gone with their last user."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from redis import Redis

from pipeline.errors import FatalError
from pipeline.servers import EmbeddedPostgres, EmbeddedValkey
from pipeline.servers.embedded import EmbeddedServer

Wait = Callable[..., None]
KINDS = [EmbeddedPostgres, EmbeddedValkey]

# A process that uses a server until it is told to let go, or is killed.
USER = """
import sys
from pathlib import Path
from pipeline.servers import EmbeddedPostgres, EmbeddedValkey
kind = {"EmbeddedPostgres": EmbeddedPostgres, "EmbeddedValkey": EmbeddedValkey}[sys.argv[1]]
server = kind(Path(sys.argv[2]), durable=False)
print(server.start(), flush=True)
sys.stdin.read()
server.release()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: its parents are closed to the account that PostgreSQL runs as.
    with tempfile.TemporaryDirectory(prefix="opspipe-servers-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


class User:
    def __init__(self, kind: type[EmbeddedServer], folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, kind.__name__, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url

    def end(self, number: int | None = None) -> None:
        if number is not None:
            self.process.send_signal(number)
        self.process.communicate()


def answers(url: str) -> bool:
    try:
        if url.startswith("redis"):
            with Redis.from_url(url) as client:
                return bool(client.ping())
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except (psycopg.OperationalError, OSError, Exception) as error:
        if isinstance(error, psycopg.OperationalError) or "Connection" in type(error).__name__:
            return False
        raise


def processes(folder: Path) -> list[psutil.Process]:
    """All processes whose command line names the folder, without our own test users."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(folder) in command and " -c " not in f" {command[:80]} ":
            found.append(process)
    return found


def guard_of(folder: Path) -> psutil.Process:
    return next(process for process in processes(folder) if "guard.py" in " ".join(process.cmdline()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_user_joins_and_the_last_one_to_leave_stops_the_server(
    kind: type[EmbeddedServer], folder: Path
) -> None:
    first, second = User(kind, folder), User(kind, folder)
    assert first.url == second.url
    first.end()
    assert answers(second.url)
    second.end()
    assert not answers(second.url)
    assert processes(folder) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_user_leaves_no_process_behind(kind: type[EmbeddedServer], folder: Path, wait: Wait) -> None:
    User(kind, folder).end(signal.SIGKILL)
    wait(lambda: processes(folder) == [], seconds=5, what="the end of every process")


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_dies_comes_back_on_the_same_port(
    kind: type[EmbeddedServer], folder: Path, wait: Wait
) -> None:
    user = User(kind, folder)
    server = guard_of(folder).children()[0]
    server.kill()
    wait(lambda: not server.is_running() and answers(user.url), seconds=15, what="the server's return")
    user.end()
    assert processes(folder) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_guard_takes_its_server_along(kind: type[EmbeddedServer], folder: Path, wait: Wait) -> None:
    user = User(kind, folder)
    guard_of(folder).kill()
    wait(lambda: processes(folder) == [], seconds=10, what="the end of every process")
    user.end()


@pytest.mark.parametrize("kind", KINDS)
def test_a_starter_that_was_killed_on_the_way_is_succeeded(kind: type[EmbeddedServer], folder: Path) -> None:
    user = User(kind, folder)
    (folder / "state.json").unlink()  # as if the starter had died before the server was ready
    server = kind(folder, durable=False)
    assert answers(server.start())
    server.release()
    user.end()
    assert processes(folder) == []


def test_data_survives_a_restart(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    with psycopg.connect(server.start()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    server.release()
    with psycopg.connect(server.start()) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
    server.release()


def test_two_servers_run_side_by_side(folder: Path) -> None:
    servers = [EmbeddedValkey(folder / name, durable=False) for name in "ab"]
    urls = [server.start() for server in servers]
    assert len(set(urls)) == 2
    assert all(answers(url) for url in urls)
    for server in servers:
        server.release()


def test_a_port_that_somebody_took_is_given_up_for_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = EmbeddedValkey(folder / "a", durable=False)
    taken = int(first.start().rsplit(":", 1)[1].split("/")[0])
    ports = iter([taken, taken])
    from pipeline.servers import embedded  # noqa: PLC0415 - patched here

    free_port = embedded.free_port
    monkeypatch.setattr(embedded, "free_port", lambda: next(ports, None) or free_port())
    second = EmbeddedValkey(folder / "b", durable=False)
    assert answers(second.start())
    second.release()
    first.release()


def test_a_server_that_cannot_start_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.servers.valkey.find_valkey", lambda: Path("/bin/false"))
    with pytest.raises(FatalError, match="does not start"):
        EmbeddedValkey(folder, durable=False).start()


def test_data_of_another_major_version_is_refused(folder: Path) -> None:
    server = EmbeddedPostgres(folder, durable=False)
    server.start()
    server.release()
    (folder / "data" / "PG_VERSION").write_text("15\n")
    with pytest.raises(FatalError, match="dump it"):
        server.start()
    server.release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
def test_root_runs_postgres_as_nobody_even_under_a_closed_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "postgres", durable=False, remove_at_end=True)
    assert answers(server.start())
    postgres = guard_of(closed).children()[0]
    assert postgres.username() == "nobody"
    elsewhere = (closed / "postgres" / "data").resolve()
    assert closed.stat().st_mode & 0o777 == 0o700
    server.release()
    assert not elsewhere.exists()


def test_the_wait_for_the_last_user_is_short(folder: Path) -> None:
    server = EmbeddedValkey(folder, durable=False)
    server.start()
    started = time.monotonic()
    server.release()
    assert time.monotonic() - started < 10
