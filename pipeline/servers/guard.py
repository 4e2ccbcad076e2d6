"""A guard: runs a few processes for as long as somebody holds a lock file, and not a moment longer.

Started by path in a bare interpreter (`python -I guard.py CONFIG.json`), so it imports nothing of ours. It
puts itself in a session of its own, becomes the parent of the services, restarts those that end, and watches
the lock: `flock` goes with its process, so a holder that was killed counts as gone.
"""

import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

_POLL_SECONDS = 0.1
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 10.0
_GROUP_SECONDS = 2.0
_LOCK_SECONDS = 2.0
_PR_SET_PDEATHSIG = 1


def _die_with_parent(number: int) -> Callable[[], None] | None:
    """Make a child get a signal when the guard itself is killed. Only Linux can do that."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    guard = os.getpid()

    def ask_kernel() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != guard:  # it died before the kernel knew
            os._exit(1)

    return ask_kernel


class Service:
    """One process, with its restarts."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.name: str = spec["name"]
        self._spec = spec
        self._process: subprocess.Popen[bytes] | None = None
        self.restarts = 0
        self.exit_code: int | None = None
        self._delay = _FIRST_DELAY
        self._started_at = 0.0
        self._due_at = 0.0

    @property
    def pid(self) -> int | None:
        """The process id; None while it waits to be restarted."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process in a session of its own, its output appended to its log."""
        spec = self._spec
        with open(spec["log_path"], "ab") as log:  # noqa: PTH123 - nothing but builtins at start-up
            self._process = subprocess.Popen(
                spec["command"],
                cwd=spec["cwd"],
                env={**(os.environ if spec["inherits_environment"] else {}), **spec["environment"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=spec["uid"],
                group=spec["gid"],
                extra_groups=None if spec["gid"] is None else [],
                preexec_fn=_die_with_parent(  # noqa: PLW1509 - the guard has no threads
                    getattr(signal, f"SIG{spec['stop_signals'][0][0]}")
                ),
            )
        self._started_at = time.monotonic()

    def has_ended(self) -> bool:
        """Notice the end of the process; what it left of its group is killed."""
        if self._process is None or self._process.poll() is None:
            return False
        self.exit_code = self._process.returncode
        self._kill_group()
        self._process = None
        if time.monotonic() - self._started_at > _LONGEST_DELAY:
            self._delay = _FIRST_DELAY
        self._postpone()
        return True

    def restart_if_due(self) -> bool:
        """Start the process again when its delay is over."""
        if self._process is not None or time.monotonic() < self._due_at:
            return False
        self.restarts += 1
        try:
            self.start()
        except OSError as error:  # the others go on: what is missing now may be there again later
            print(f"{self.name} cannot be started: {error}", file=sys.stderr, flush=True)  # noqa: T201 - its log
            self._postpone()
        return True

    def _postpone(self) -> None:
        self._due_at = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, _LONGEST_DELAY)

    def stop(self, round_number: int) -> bool:
        """Send the signal of this round; True when the process has ended."""
        if self._process is None or self._process.poll() is not None:
            return True
        signals = self._spec["stop_signals"]
        if round_number < len(signals):
            self._process.send_signal(getattr(signal, f"SIG{signals[round_number][0]}"))
        else:
            self._kill_group()
        return False

    def patience(self, round_number: int) -> float:
        """Seconds to wait after the signal of this round."""
        signals = self._spec["stop_signals"]
        return float(signals[round_number][1]) if round_number < len(signals) else 10.0

    @property
    def rounds(self) -> int:
        """How many signals there are, SIGKILL to the whole group as the last."""
        return len(self._spec["stop_signals"]) + 1

    def wait(self, deadline: float) -> None:
        """Wait for the end until the deadline."""
        if self._process is not None:
            try:
                self._process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                return

    def sweep_group(self) -> None:
        """Kill what a process that has ended left behind, and see it gone."""
        if self._process is None:
            return
        deadline = time.monotonic() + _GROUP_SECONDS
        while self._kill_group() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS / 10)

    def _kill_group(self) -> bool:
        """Kill the process's group; False where there is none any more."""
        if self._process is None:
            return False
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            return False
        return True


class Guard:
    """The services of one configuration and the lock that keeps them running."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._folder = Path(config["folder"])
        self._services = [Service(spec) for spec in config["services"]]
        self._is_asked_to_stop = False
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._is_asked_to_stop = True

    def run(self, users_lock: TextIO) -> int:
        """Run the services until nobody holds the lock; gives the exit code."""
        try:
            for service in self._services:
                service.start()
        except OSError as error:
            print(f"a service cannot be started: {error}", file=sys.stderr, flush=True)  # noqa: T201 - its log
            self._stop()
            return 1
        self._write_status()
        while not self._is_asked_to_stop and self._is_in_place(users_lock) and not _take(users_lock):
            changed = [service.has_ended() for service in self._services]
            if any(changed) and not self._may_restart():
                # It never worked: whoever is starting it wants to know at once.
                self._stop()
                return 1
            changed += [service.restart_if_due() for service in self._services]
            if any(changed):
                self._write_status()
            time.sleep(_POLL_SECONDS)
        self._stop()
        return 0

    def _is_in_place(self, users_lock: TextIO) -> bool:
        """Tell whether the folder is still there: nobody can join what was deleted under us."""
        try:
            return os.path.samestat((self._folder / "users.lock").stat(), os.fstat(users_lock.fileno()))
        except FileNotFoundError:
            return False

    def _may_restart(self) -> bool:
        marker = self._config["restart_if_exists"]
        return marker is None or Path(marker).exists()

    def _stop(self) -> None:
        for name in self._config["forget_at_stop"]:
            Path(name).unlink(missing_ok=True)
        for round_number in range(max(service.rounds for service in self._services)):
            running = [service for service in self._services if not service.stop(round_number)]
            deadline = time.monotonic() + max((s.patience(round_number) for s in running), default=0.0)
            for service in running:
                service.wait(deadline)
        for service in self._services:
            service.sweep_group()
        (self._folder / "status.json").unlink(missing_ok=True)
        for name in self._config["remove_at_end"]:
            _remove(Path(name))

    def _write_status(self) -> None:
        status = {
            "guard": os.getpid(),
            "services": {
                service.name: {
                    "pid": service.pid,
                    "restarts": service.restarts,
                    "exitCode": service.exit_code,
                }
                for service in self._services
            },
        }
        temporary = self._folder / ".status.json"
        temporary.write_text(json.dumps(status))
        temporary.replace(self._folder / "status.json")


def _remove(folder: Path) -> None:
    """Remove a folder, renamed first: whoever comes meanwhile begins with an empty one."""
    doomed = folder.with_name(f".{folder.name}.removed-{os.getpid()}")
    try:
        folder.rename(doomed)
    except FileNotFoundError:
        return
    except OSError:
        doomed = folder
    shutil.rmtree(doomed, ignore_errors=True)


def _take_own(lock: TextIO) -> bool:
    """Take the guard's lock; who only looks whether a guard lives holds it for a moment too."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while not _take(lock):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS / 10)
    return True


def _take(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def main(config_path: str) -> int:
    """Detach from whoever started us and guard until the lock is free."""
    config = json.loads(Path(config_path).read_text())
    folder = Path(config["folder"])
    with (folder / "guard.lock").open("a") as own, (folder / "users.lock").open("a") as users:
        if not _take_own(own):
            return 3
        # Whoever started us waits for the first process only, and finds the lock taken when it has ended.
        if os.fork():
            os._exit(0)
        os.setsid()
        code = Guard(config).run(users)
        # The locks go with the process: whoever waits for them finds it gone and not about to go.
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
