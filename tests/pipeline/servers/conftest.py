"""Folders for embedded servers, and other processes that use them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from redis import Redis
from redis.exceptions import RedisError

ROOT = Path(__file__).parents[3]
USE = """
import sys
from pathlib import Path
from pipeline.servers import EmbeddedPostgres, EmbeddedValkey
kind, folder, remove_at_end = sys.argv[1:]
server = {"EmbeddedPostgres": EmbeddedPostgres, "EmbeddedValkey": EmbeddedValkey}[kind](
    Path(folder), durable=False, remove_at_end=remove_at_end == "True"
)
print(server.start(), flush=True)
sys.stdin.read()
server.release()
"""


class OtherUser:
    """Another process that uses a server until it is told to leave."""

    def __init__(self, kind: type, folder: Path, *, remove_at_end: bool = False) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USE, kind.__name__, str(folder), str(remove_at_end)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def leave(self) -> None:
        self.process.communicate()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every account can reach, for one server or supervisor."""
    home = Path(tempfile.mkdtemp(prefix="opspipe-servers-"))
    home.chmod(0o755)
    yield home / "server"
    for status in home.glob("*/status.json"):  # only where a test failed is anything left to end
        with contextlib.suppress(psutil.NoSuchProcess):
            guard = psutil.Process(json.loads(status.read_text())["guard"])
            if any(str(home) in word for child in guard.children() for word in child.cmdline()):
                guard.terminate()
                guard.wait(20)
    shutil.rmtree(home)


@pytest.fixture
def other_user() -> Iterator[Callable[..., OtherUser]]:
    """Start other processes that use a server; killed at the end of the test."""
    made: list[OtherUser] = []

    def make(kind: type, folder: Path, *, remove_at_end: bool = False) -> OtherUser:
        made.append(OtherUser(kind, folder, remove_at_end=remove_at_end))
        return made[-1]

    yield make
    for user in made:
        if user.process.poll() is None:
            user.kill()


@pytest.fixture
def answers() -> Callable[[str], bool]:
    """Whether the server of a URL answers a real request."""

    def ask(url: str) -> bool:
        try:
            if url.startswith("postgresql://"):
                with psycopg.connect(url, connect_timeout=2) as connection:
                    return connection.execute("SELECT 1").fetchone() == (1,)
            with Redis.from_url(url, socket_timeout=2) as client:
                return bool(client.ping())
        except (psycopg.OperationalError, RedisError):
            return False

    return ask


@pytest.fixture
def processes() -> Callable[[Path], list[psutil.Process]]:
    """The guard of a folder, what it runs, and their children."""

    def find(folder: Path) -> list[psutil.Process]:
        guard = psutil.Process(json.loads((folder / "status.json").read_text())["guard"])
        return [guard, *guard.children(recursive=True)]

    return find


@pytest.fixture
def running() -> Callable[[list[psutil.Process]], list[psutil.Process]]:
    """Which of these processes run: a zombie has ended."""

    def filter_running(found: list[psutil.Process]) -> list[psutil.Process]:
        return [one for one in found if _runs(one)]

    return filter_running


@pytest.fixture
def as_root() -> None:
    """Only root can run this test."""
    if os.geteuid() != 0:
        pytest.skip("only root runs PostgreSQL as another account")


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
