"""Servers that a guard runs, and waiting for them."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

_WAIT_SECONDS = 60.0


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(
    condition: Callable[[], bool], what: str, *, seconds: float = _WAIT_SECONDS, pause: float = 0.02
) -> None:
    """Wait for a condition with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:.0f} s")
        time.sleep(pause)


def runs(process: psutil.Process) -> bool:
    """Tell whether a process is there and has not ended."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def find_process(pid: int | None) -> psutil.Process | None:
    """Give a process that runs; None where there is none."""
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(pid) if pid else None
        return found if found is not None and runs(found) else None
    return None


class GuardedServer:
    """A server that is the only service of its guard.

    Args:
        folder: the guard's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self) -> psutil.Process:
        """Give the server's process, waiting until it runs."""
        found: list[psutil.Process] = []

        def is_there() -> bool:
            process = self.look()
            found[:] = [process] if process is not None else []
            return bool(found)

        wait_for(is_there, f"{self.folder.name} runs")
        return found[0]

    def look(self) -> psutil.Process | None:
        """Give the server's process; None while it waits to be started again."""
        (service,) = self._status()["services"].values()
        return find_process(service["pid"])

    def guard(self) -> psutil.Process:
        """Give the guard's process."""
        return psutil.Process(self._status()["guard"])

    @contextmanager
    def without_guard(self) -> Iterator[None]:
        """Have nobody start the server again as long as the block."""
        guard = self.guard()
        guard.suspend()
        try:
            yield
        finally:
            guard.resume()

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads((self.folder / "status.json").read_text())
        return status
