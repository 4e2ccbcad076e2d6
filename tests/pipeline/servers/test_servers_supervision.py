"""The supervision of processes: restarts, whole groups, and their end with the one who supervises."""

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from pipeline.errors import FatalError
from pipeline.servers.supervisor import Service, Supervisor

SLEEP = "import time; time.sleep(600)"
# A child that no SIGTERM ends, and its process id in a file.
STUBBORN = (
    "import subprocess, sys, pathlib, time;"
    "child = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True);"
    " time.sleep(600)';"
    "process = subprocess.Popen([sys.executable, '-c', child], stdout=subprocess.PIPE);"
    "process.stdout.readline();"
    "pathlib.Path(sys.argv[1]).open('a').write(f'{process.pid}\\n');"
)


def service(folder: Path, code: str, *arguments: str, name: str = "one", **more: object) -> Service:
    return Service(
        name=name,
        command=[sys.executable, "-c", code, *arguments],
        log_path=folder.parent / f"{name}.log",
        **{"stop_signals": [("TERM", 5.0)], **more},  # type: ignore[arg-type]
    )


@pytest.fixture
def supervise(folder: Path) -> Iterator[Callable[..., Supervisor]]:
    made: list[Supervisor] = []

    def start(services: Sequence[Service]) -> Supervisor:
        made.append(Supervisor(folder, services))
        made[-1].start()
        return made[-1]

    yield start
    for supervisor in made:
        supervisor.stop()


def process_of(supervisor: Supervisor, name: str = "one") -> psutil.Process:
    return psutil.Process(supervisor.status()[name]["pid"])


def written_pids(path: Path) -> list[psutil.Process]:
    return [psutil.Process(int(line)) for line in path.read_text().split()] if path.exists() else []


def test_a_service_that_always_fails_is_started_again_ever_less_often(
    supervise: Callable, folder: Path, wait: Callable
) -> None:
    times = folder.parent / "times"
    code = "import sys, time; open(sys.argv[1], 'a').write(f'{time.monotonic()}\\n'); sys.exit(3)"
    supervise([service(folder, code, str(times))])
    wait(lambda: times.exists() and len(times.read_text().split()) == 3, seconds=12, what="two restarts")
    moments = [float(line) for line in times.read_text().split()]
    pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert pauses == sorted(pauses)
    assert pauses[-1] > 0.9


def test_the_end_of_a_service_takes_along_what_it_left_behind(
    supervise: Callable, folder: Path, wait: Callable, running: Callable
) -> None:
    pids = folder.parent / "pids"
    supervisor = supervise([service(folder, STUBBORN + "time.sleep(600)", str(pids))])
    wait(lambda: written_pids(pids), seconds=5, what="the child")
    (child,) = written_pids(pids)
    process_of(supervisor).kill()
    wait(lambda: not running([child]), seconds=5, what="the end of the child")


def test_a_service_that_ignores_every_signal_is_killed_in_the_end(
    supervise: Callable, folder: Path, wait: Callable, running: Callable
) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True);" + SLEEP
    supervisor = supervise([service(folder, code, stop_signals=[("TERM", 0.3)])])
    wait((folder.parent / "one.log").read_text, seconds=5, what="the service")
    stubborn = process_of(supervisor)
    supervisor.stop()
    assert running([stubborn]) == []


def test_a_service_that_listens_has_the_time_to_finish(
    supervise: Callable, folder: Path, wait: Callable
) -> None:
    code = (
        "import signal, sys, time\n"
        "def finish(*_):\n    time.sleep(0.5)\n    print('finished', flush=True)\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, finish)\nprint('ready', flush=True)\ntime.sleep(600)"
    )
    supervisor = supervise([service(folder, code)])
    log = folder.parent / "one.log"
    wait(lambda: "ready" in log.read_text(), seconds=5, what="the service")
    supervisor.stop()
    assert log.read_text().split() == ["ready", "finished"]


def test_services_have_the_callers_environment_and_their_own_additions(
    supervise: Callable, folder: Path, wait: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "ours")
    code = "import os, time; print(os.environ['OURS'], os.environ['MORE'], flush=True);" + SLEEP
    supervise([service(folder, code, environment={"MORE": "more"})])
    log = folder.parent / "one.log"
    wait(lambda: log.read_text().split() == ["ours", "more"], seconds=5, what="both variables")


def test_a_terminated_guard_stops_the_services_first(
    supervise: Callable, folder: Path, processes: Callable, running: Callable, wait: Callable
) -> None:
    supervise([service(folder, SLEEP), service(folder, SLEEP, name="two")])
    guard, *found = processes(folder)
    assert len(found) == 2
    guard.terminate()
    wait(lambda: not running([guard, *found]), seconds=5, what="the end of guard and services")


def test_each_service_has_a_process_group_of_its_own(supervise: Callable, folder: Path) -> None:
    supervisor = supervise([service(folder, SLEEP), service(folder, SLEEP, name="two")])
    found = [process_of(supervisor, name).pid for name in ("one", "two")]
    assert [os.getpgid(pid) for pid in found] == found


def test_a_command_that_does_not_exist_is_an_error_at_once(supervise: Callable, folder: Path) -> None:
    missing = Service(
        name="one", command=["/no/such/command"], log_path=folder.parent / "log", stop_signals=[("TERM", 1.0)]
    )
    with pytest.raises(FatalError, match="no/such/command"):
        supervise([missing])
