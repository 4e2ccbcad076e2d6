"""Real Celery workers for the tests that want some."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from pipeline.settings import get_settings

_ROOT = Path(__file__).parents[1]


class Workers:
    """Real Celery workers, each in a process group of its own."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        self.log_path = get_settings().home / "workers.log"

    def start(
        self, *, queues: str = "ingest,vectorize,analyze,schedule", concurrency: int = 2
    ) -> psutil.Process:
        name = f"w{len(self.processes)}-{os.getpid()}@%h"
        command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-n", name, "-Q", queues]
        with self.log_path.open("ab") as log:
            process = subprocess.Popen(
                [*command, "-c", str(concurrency), "-l", "INFO"],
                cwd=_ROOT,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return psutil.Process(process.pid)

    def stop(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):  # it ended before
                os.killpg(process.pid, 9)
            process.wait()
        self.processes.clear()
