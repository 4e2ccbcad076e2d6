"""Starting guards and talking to them: what embedded servers and supervised services have in common."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

_GUARD = Path(__file__).with_name("guard.py")
# The guard looks at the lock ten times a second: after this it has noticed, if it was the last one.
_NOTICE_SECONDS = 0.7
_STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Service:
    """A process for a guard to run. Signals are tried in order, each with the seconds it gets."""

    name: str
    command: Sequence[str]
    log_path: Path
    stop_signals: Sequence[tuple[str, float]]
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    uid: int | None = None
    gid: int | None = None

    def as_config(self) -> dict[str, Any]:
        """Give the form that the guard reads."""
        return {
            "name": self.name,
            "command": list(self.command),
            "log_path": str(self.log_path),
            "stop_signals": [list(pair) for pair in self.stop_signals],
            "environment": dict(self.environment),
            "cwd": str(self.cwd) if self.cwd else None,
            "uid": self.uid,
            "gid": self.gid,
        }


def lock_file(path: Path, operation: int) -> TextIO:
    """Open a lock file and take the lock, waiting for it."""
    handle = path.open("a")
    try:
        fcntl.flock(handle, operation)
    except BaseException:
        handle.close()
        raise
    return handle


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds the lock exclusively."""
    try:
        with path.open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:  # the folder itself is gone
        return False
    except BlockingIOError:
        return True
    return False


class GuardFolder:
    """A folder with the locks, status and configuration of one guard."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._users: TextIO | None = None

    def join(self) -> None:
        """Hold the services: they run as long as this process, or until `leave`."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self._users is None:
            self._users = lock_file(self.path / "users.lock", fcntl.LOCK_SH)

    def is_guarded(self) -> bool:
        """Tell whether a guard is alive."""
        return is_locked(self.path / "guard.lock")

    def launch(
        self,
        services: Sequence[Service],
        *,
        restart_if_exists: Path | None = None,
        forget_at_stop: Sequence[Path] = (),
        remove_at_end: Sequence[Path] = (),
    ) -> None:
        """Start a guard with these services.

        Args:
            services: what it runs.
            restart_if_exists: a service that ends is restarted only if this file is there; None: always.
            forget_at_stop: files removed when the stop begins.
            remove_at_end: folders removed when everything has ended.
        """
        config = {
            "folder": str(self.path),
            "services": [service.as_config() for service in services],
            "restart_if_exists": str(restart_if_exists) if restart_if_exists else None,
            "forget_at_stop": [str(path) for path in forget_at_stop],
            "remove_at_end": [str(path) for path in remove_at_end],
        }
        path = self.path / "guard.json"
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as sink:
            json.dump(config, sink)
        with (self.path / "guard.log").open("ab") as log:
            subprocess.run(
                [sys.executable, "-I", str(_GUARD), str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
                start_new_session=True,
            )
        self._await_guard()

    def _await_guard(self) -> None:
        """Wait until the guard has started its services, or has ended because they did."""
        while self.status() is None and self.is_guarded():
            time.sleep(0.01)

    def status(self) -> dict[str, Any] | None:
        """Read what the guard says of its services; None where there is no guard."""
        try:
            status: dict[str, Any] = json.loads((self.path / "status.json").read_text())
        except FileNotFoundError:
            return None
        return status

    def leave(self) -> None:
        """Let go; if this was the last holder, wait until everything has stopped."""
        if self._users is None:
            return
        self._users.close()
        self._users = None
        noticed, stopped = time.monotonic() + _NOTICE_SECONDS, time.monotonic() + _STOP_SECONDS
        while self.is_guarded():
            is_stopping = (self.path / "stopping").exists()
            if time.monotonic() > (stopped if is_stopping else noticed):
                return
            time.sleep(0.02)
