"""The demo: it reports, holds its invariants, and leaves nothing, however it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

OPSPIPE = Path(sys.executable).with_name("opspipe")
Wait = Callable[..., None]
ENVIRONMENT = os.environ | {"OPSPIPE_DURABLE": "false", "COLUMNS": "120"}


def started_by(marker: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("OPSPIPE_TEST_MARKER") == marker:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_the_demo_reports_and_leaves_nothing(tmp_path: Path) -> None:
    environment = ENVIRONMENT | {"OPSPIPE_TEST_MARKER": "whole", "TMPDIR": str(tmp_path)}
    tmp_path.chmod(0o755)
    done = subprocess.run(
        [OPSPIPE, "demo", "--rows", "150"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for expected in (
        "150 rows = ",
        "Skipped, by reason",
        "Categories",
        "Alignment scores",
        "Nearest records",
        "Demo week",
        "vectorize",
        "http://127.0.0.1:",
        "Every invariant holds.",
    ):
        assert expected in done.stdout
    assert started_by("whole") == []
    assert list(tmp_path.glob("opspipe-demo-*")) == []


@pytest.mark.parametrize(
    ("number", "seconds"), [(signal.SIGINT, 0.5), (signal.SIGINT, 4), (signal.SIGKILL, 4)]
)
def test_a_demo_that_is_stopped_leaves_no_process(
    number: int, seconds: float, wait: Wait, tmp_path: Path
) -> None:
    marker = f"stopped-{number}-{seconds}"
    environment = ENVIRONMENT | {"OPSPIPE_TEST_MARKER": marker, "TMPDIR": str(tmp_path)}
    tmp_path.chmod(0o755)
    with subprocess.Popen([OPSPIPE, "demo"], env=environment, stdout=subprocess.DEVNULL) as demo:
        time.sleep(seconds)  # the moment is what is being tried
        demo.send_signal(number)
        demo.wait(60)
        assert demo.returncode != 0
    wait(lambda: started_by(marker) == [], seconds=30, what="the end of every process")


def test_a_demo_whose_parent_was_killed_stops(wait: Wait, tmp_path: Path) -> None:
    environment = ENVIRONMENT | {"OPSPIPE_TEST_MARKER": "orphan", "TMPDIR": str(tmp_path)}
    tmp_path.chmod(0o755)
    shell = f"{OPSPIPE} demo >/dev/null 2>&1; true"
    with subprocess.Popen(["/bin/sh", "-c", shell], env=environment) as parent:
        wait(lambda: len(started_by("orphan")) > 3, what="the demo's processes")
        parent.kill()
    wait(lambda: started_by("orphan") == [], seconds=60, what="the end of every process")
