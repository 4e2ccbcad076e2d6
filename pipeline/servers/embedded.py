"""What embedded PostgreSQL and Valkey have in common: one server a folder, shared by all who use it.

Whoever uses a server holds a shared lock; a guard owns the server and stops it when nobody holds the lock any
more (docs/decisions/0004-shared-embedded-servers.md).
"""

import contextlib
import fcntl
import json
import os
import secrets
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import FatalError
from pipeline.servers.guarding import GuardFolder, Service, lock_file

_PORTS_TO_TRY = 5
_LOG_LINES = 5


class EmbeddedServer(ABC):
    """A server of our own under a folder."""

    start_seconds = 60.0

    def __init__(self, folder: Path, *, durable: bool = True, remove_at_end: bool = False) -> None:
        self.folder = folder
        self.durable = durable
        self._remove_at_end = remove_at_end
        self._guard = GuardFolder(folder)
        self._state_path = folder / "state.json"
        self._owner_pid: int | None = None

    def start(self) -> str:
        """Start the server or join the one that runs; gives its URL.

        Raises:
            FatalError: it does not start; the last lines of its log say why.
        """
        self._guard.join()
        self._owner_pid = os.getpid()
        try:
            with lock_file(self.folder / "start.lock", fcntl.LOCK_EX):
                return self._running_url() or self._start()
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go of the server; the last one to do so waits until it has stopped."""
        if self._owner_pid == os.getpid():
            self._owner_pid = None
            self._guard.leave()

    def _running_url(self) -> str | None:
        if not self._guard.is_guarded():
            self._state_path.unlink(missing_ok=True)
            return None
        try:
            state = json.loads(self._state_path.read_text())
        except FileNotFoundError:
            return None
        url: str = state["url"]
        return url

    def _end_unready_guard(self) -> None:
        """End the guard of a starter that was killed before the server was ready."""
        status = self._guard.status()
        if status is not None and self._guard.is_guarded():
            with contextlib.suppress(ProcessLookupError):
                os.kill(status["guard"], signal.SIGTERM)
        deadline = time.monotonic() + self.start_seconds
        while self._guard.is_guarded() and time.monotonic() < deadline:
            time.sleep(0.02)

    def _start(self) -> str:
        self._end_unready_guard()
        self._prepare()
        for _ in range(_PORTS_TO_TRY):
            port = free_port()
            log_start = self._log_path.stat().st_size if self._log_path.exists() else 0
            self._guard.launch(
                [self._service(port)],
                restart_if_exists=self._state_path,
                forget_at_stop=[self._state_path],
                remove_at_end=self._folders() if self._remove_at_end else [],
            )
            if self._wait_until_ready(port):
                url = self._url(port)
                write_secret(self._state_path, json.dumps({"url": url, "port": port}))
                return url
            if "ddress already in use" not in self._log_text(log_start):
                break
        raise FatalError(f"the embedded {self._name} does not start: {self._log_tail(log_start)}")

    def _wait_until_ready(self, port: int) -> bool:
        deadline = time.monotonic() + self.start_seconds
        try:
            while time.monotonic() < deadline:
                if self._answers(port):
                    return True
                if not self._guard.is_guarded():
                    return False
                time.sleep(0.02)
        except BaseException:
            self._end_unready_guard()
            raise
        self._end_unready_guard()
        return False

    def _log_text(self, start: int) -> str:
        """Read what this start added to the log."""
        if not self._log_path.exists():
            return ""
        with self._log_path.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")

    def _log_tail(self, start: int) -> str:
        lines = self._log_text(start).strip().splitlines()
        return " | ".join(lines[-_LOG_LINES:]) or f"see {self.folder / 'guard.log'}"

    def _secret(self, name: str) -> str:
        path = self.folder / name
        if not path.exists():
            write_secret(path, secrets.token_hex(24))
        return path.read_text()

    def _folders(self) -> Sequence[Path]:
        return [self.folder]

    @property
    def _log_path(self) -> Path:
        return self.folder / "server.log"

    @property
    @abstractmethod
    def _name(self) -> str:
        """The server's name in messages."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make what the server needs before its first start."""

    @abstractmethod
    def _service(self, port: int) -> Service:
        """Describe the server process on a port."""

    @abstractmethod
    def _answers(self, port: int) -> bool:
        """Tell whether our server, and not another's, answers on the port."""

    @abstractmethod
    def _url(self, port: int) -> str:
        """Give the URL that clients use."""


def free_port() -> int:
    """Find a loopback port that is free at this moment; somebody may still be faster."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner reads, complete or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as sink:
        sink.write(text)
    temporary.replace(path)
