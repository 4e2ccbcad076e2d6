"""Supervised services: restarted when they end, gone with whoever supervises them, grandchildren included."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipeline.errors import FatalError
from pipeline.servers.supervisor import Service, Supervisor

Wait = Callable[..., None]

# A service with a child that ignores SIGTERM, as a busy pool process may.
STUBBORN = """
import signal, subprocess, sys, time
subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
time.sleep(600)
"""


def service(tmp_path: Path, code: str) -> Service:
    return Service(
        name="it",
        command=[sys.executable, "-c", code],
        log_path=tmp_path / "it.log",
        stop_signals=[("TERM", 5.0)],
    )


def test_stopping_ends_the_whole_process_group(tmp_path: Path, wait: Wait) -> None:
    supervisor = Supervisor(tmp_path / "run", [service(tmp_path, STUBBORN)])
    supervisor.start()
    leader = psutil.Process(supervisor.status()["it"]["pid"])
    wait(lambda: bool(leader.children()), what="the grandchild")
    family = [leader, *leader.children()]
    supervisor.stop()
    assert not any(process.is_running() for process in family)


def test_a_service_that_ends_is_started_again(tmp_path: Path, wait: Wait) -> None:
    supervisor = Supervisor(tmp_path / "run", [service(tmp_path, "raise SystemExit(7)")])
    supervisor.start()
    wait(lambda: supervisor.status()["it"]["restarts"] >= 2, what="the second restart")
    assert supervisor.status()["it"]["exitCode"] == 7
    supervisor.stop()


def test_services_end_with_a_killed_supervisor(tmp_path: Path, wait: Wait) -> None:
    code = f"""
import sys, time
from pathlib import Path
from pipeline.servers.supervisor import Service, Supervisor
tmp_path = Path({str(tmp_path)!r})
command = [sys.executable, "-c", "import time; time.sleep(600)"]
it = Service(name="it", command=command, log_path=tmp_path / "it.log", stop_signals=[("TERM", 5.0)])
supervisor = Supervisor(tmp_path / "run", [it])
supervisor.start()
print(supervisor.status()["it"]["pid"], flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
    wait(lambda: not psutil.pid_exists(pid), seconds=10, what="the end of the service")


def test_a_guard_that_is_gone_is_noticed(tmp_path: Path, wait: Wait) -> None:
    supervisor = Supervisor(tmp_path / "run", [service(tmp_path, "import time; time.sleep(600)")])
    supervisor.start()
    supervisor.check()
    leader = psutil.Process(supervisor.status()["it"]["pid"])
    parent = leader.parent()
    assert parent is not None
    parent.kill()
    wait(lambda: not leader.is_running() or sys.platform != "linux", what="the end of the service")
    with pytest.raises(FatalError, match="guard"):
        supervisor.check()
    supervisor.stop()
