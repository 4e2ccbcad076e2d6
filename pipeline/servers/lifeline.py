"""One process's hold on what a guard runs in a folder: the locks, the guard's start and its end.

Who uses the services holds `users.lock` shared, who starts them holds `start.lock` meanwhile, the guard holds
`guard.lock` for its life. All are flock locks: the kernel drops them with the process, however it ends, and a
forked child (a Celery pool child) shares its parent's. What the services are is not known here.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from pipeline.errors import FatalError, TransientError
from pipeline.servers import guard as guard_script
from pipeline.servers.guard import GuardConfig, GuardStatus, ServiceConfig

WAIT_SECONDS = 0.02
# Longer than any service's stop signals together.
END_SECONDS = 120.0


class Lifeline:
    """A user's hold on a folder's guard. Not shared between threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.status_file = folder / "status.json"
        self.guard_log = folder / "guard.log"
        self._hold: IO[bytes] | None = None
        self._guard_lock: IO[bytes] | None = None
        self._owner_pid = 0

    @property
    def is_held(self) -> bool:
        """Whether this very process (not the one it was forked from) holds the folder."""
        return self._hold is not None and self._owner_pid == os.getpid()

    def hold(self) -> None:
        """Become a user: from now on the guard does not stop. Waits while an earlier guard is stopping.

        Raises:
            FatalError: the folder belongs to somebody else.
        """
        if self.is_held:
            return
        try:
            self._hold = self._take_users_lock()
            self._guard_lock = _open_lock(self.folder / "guard.lock")
        except PermissionError as error:
            raise FatalError(
                f"{self.folder} belongs to another user: {error}; choose another folder"
            ) from error
        self._owner_pid = os.getpid()

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Keep every other starter out."""
        with _open_lock(self.folder / "start.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def guard_lives(self) -> bool:
        """Whether a guard holds its lock; probed with a shared lock, so that two who ask see no guard."""
        if self._guard_lock is not None:
            return not _try_lock(self._guard_lock, fcntl.LOCK_SH)
        try:
            with (self.folder / "guard.lock").open("r+b") as lock:
                return not _try_lock(lock, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    def status(self) -> GuardStatus | None:
        """What the guard says of its services; None where no guard lives."""
        if not self.guard_lives():
            return None
        return self.last_status()

    def last_status(self) -> GuardStatus | None:
        """What the guard said last, whether it lives or not."""
        try:
            return cast("GuardStatus", json.loads(self.status_file.read_text()))
        except FileNotFoundError:
            return None

    def launch(
        self, services: Sequence[ServiceConfig], *, ready: Path | None, remove: Sequence[Path] = ()
    ) -> None:
        """Start a guard and with it the services; returns once they are started, which is not yet ready.

        Raises:
            FatalError: the guard could not start them.
        """
        config: GuardConfig = {
            "users_lock": str(self.folder / "users.lock"),
            "guard_lock": str(self.folder / "guard.lock"),
            "status": str(self.status_file),
            "ready": str(ready) if ready else None,
            "remove": [str(path) for path in remove],
            "services": list(services),
        }
        # By stdin and not as arguments: environments hold passwords.
        with guard_script.open_log(self.guard_log) as log:
            done = subprocess.run(
                [sys.executable, "-I", "-S", guard_script.__file__],
                input=json.dumps(config).encode(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                check=False,
            )
        if done.returncode:
            raise FatalError(f"the services in {self.folder} cannot be started: {log_tail(self.guard_log)}")

    def let_go(self) -> None:
        """Stop being a user; where nobody else is one, return only after everything has ended.

        In a process forked from the user it does nothing: the hold is its parent's.
        The lock is dropped by closing, never by unlocking: forked children keep their share of it.
        """
        if not self.is_held or self._hold is None:
            return
        self._hold.close()
        self._hold = None
        with contextlib.suppress(FileNotFoundError):
            self._wait_unless_used()
        self._close_guard_lock()

    def end_guard(self, *, seconds: float = END_SECONDS) -> None:
        """Ask the guard to stop although it has users, and wait until it has, for so long at most.

        Raises:
            TransientError: it did not end in time.
        """
        deadline = time.monotonic() + seconds
        asked = False
        while self.guard_lives():
            pid = self._guard_pid()
            if pid and not asked and "guard.py" in command_line(pid):
                os.kill(pid, signal.SIGTERM)
                asked = True
            if time.monotonic() > deadline:
                raise TransientError(f"the guard of {self.folder} (process {pid}) does not end; kill it")
            time.sleep(WAIT_SECONDS)

    def _take_users_lock(self) -> IO[bytes]:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock = _open_lock(self.folder / "users.lock")
            except FileNotFoundError:
                continue
            fcntl.flock(lock, fcntl.LOCK_SH)
            # The guard that we waited for may have removed the folder: then this lock is nobody's.
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(lock.fileno()).st_ino == (self.folder / "users.lock").stat().st_ino:
                    return lock
            lock.close()

    def _wait_unless_used(self) -> None:
        """Wait for the guard's end; return early when others turn out, twice in a row, to use it."""
        deadline = time.monotonic() + END_SECONDS
        seen_others = 0
        with (self.folder / "users.lock").open("r+b") as users:
            while self.guard_lives() and seen_others <= 1 and time.monotonic() < deadline:
                # Exclusive: no user, the guard has yet to notice. Shared only: there are users.
                # Neither: the guard has it and is stopping.
                is_unused = _try_lock(users, fcntl.LOCK_EX)
                is_used = not is_unused and _try_lock(users, fcntl.LOCK_SH)
                seen_others = seen_others + 1 if is_used else 0
                time.sleep(WAIT_SECONDS)

    def _guard_pid(self) -> int | None:
        text = (self.folder / "guard.lock").read_text()
        return int(text) if text.isdigit() else None

    def _close_guard_lock(self) -> None:
        if self._guard_lock is not None:
            self._guard_lock.close()
            self._guard_lock = None


def log_tail(path: Path, *, start: int = 0, lines: int = 12) -> str:
    """The last lines of a log, of what was written to it after byte `start`."""
    if not path.exists():
        return "(no log)"
    with path.open("rb") as log:
        log.seek(start)
        text = log.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def command_line(pid: int) -> str:
    """The command line of a process, empty where there is no such process."""
    shown = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)],  # noqa: S607 - where ps lies differs by system
        capture_output=True,
        text=True,
        check=False,
    )
    return shown.stdout.strip()


def _open_lock(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")


def _try_lock(file: IO[bytes], kind: int) -> bool:
    """Whether the lock could be had; it is given back at once."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(file, fcntl.LOCK_UN)
    return True
