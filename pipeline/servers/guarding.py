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

from pipeline.errors import FatalError

_GUARD = Path(__file__).with_name("guard.py")
_STOP_SECONDS = 60.0
# Another process's look at the lock may pass for a use of it, but not twice in a row.
_LOOKS = 2


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
    inherits_environment: bool = True

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
            "inherits_environment": self.inherits_environment,
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


def can_lock(handle: TextIO, operation: int) -> bool:
    """Tell whether the lock could be had at this moment."""
    try:
        fcntl.flock(handle, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(handle, fcntl.LOCK_UN)
    return True


def is_locked(path: Path) -> bool:
    """Tell whether somebody holds the lock exclusively."""
    try:
        with path.open("r+") as handle:  # not "a": it must not come into being in a folder that is removed
            return not can_lock(handle, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


class GuardFolder:
    """A folder with the locks, status and configuration of one guard."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self._users: TextIO | None = None

    def join(self) -> None:
        """Hold the services: they run as long as this process, or until `leave`."""
        while self._users is None:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self.path / "users.lock"
            try:
                handle = lock_file(lock, fcntl.LOCK_SH)
            except FileNotFoundError:
                continue
            # The guard that we waited for may have removed the folder: then this lock is nobody's.
            if lock.exists() and os.path.samestat(lock.stat(), os.fstat(handle.fileno())):
                self._users = handle
            else:
                handle.close()

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
        (self.path / "status.json").unlink(missing_ok=True)  # of a guard that was killed
        with (self.path / "guard.log").open("ab") as log:
            log_start = log.tell()
            subprocess.run(
                [sys.executable, "-I", str(_GUARD), str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
                start_new_session=True,
            )
        self._await_guard()
        if not self.is_guarded() and not restart_if_exists:
            said = (self.path / "guard.log").read_bytes()[log_start:].decode(errors="replace").strip()
            raise FatalError(f"the services in {self.path} cannot be started: {said}")

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
        # Closed, not unlocked: a forked child keeps its share.
        self._users.close()
        self._users = None
        try:
            # Opened before the folder may be removed: the guard's lock is free only after that.
            with (
                (self.path / "guard.lock").open("r+") as guard,
                (self.path / "users.lock").open("r+") as users,
            ):
                _wait_unless_used(guard, users)
        except FileNotFoundError:
            return


def _wait_unless_used(guard: TextIO, users: TextIO) -> None:
    """Wait for the guard's end, unless others use what it guards."""
    deadline = time.monotonic() + _STOP_SECONDS
    looks = 0
    while not can_lock(guard, fcntl.LOCK_SH) and looks < _LOOKS and time.monotonic() < deadline:
        # Free: the guard has yet to notice. Shared only: others use it. Neither: the guard is stopping.
        is_used = not can_lock(users, fcntl.LOCK_EX) and can_lock(users, fcntl.LOCK_SH)
        looks = looks + 1 if is_used else 0
        time.sleep(0.02)
