"""The command line on a home of its own: real processes, which a test leaves none of."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.servers.embedded import free_port

OPSPIPE = Path(sys.executable).with_name("opspipe")


class Cli:
    """Commands on a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = os.environ | {
            "OPSPIPE_HOME": str(home),
            "OPSPIPE_DURABLE": "false",
            "OPSPIPE_TEMPORARY": "false",
            "OPSPIPE_PORT": str(free_port()),
            "OPSPIPE_FLOWER_PORT": str(free_port()),
            "COLUMNS": "200",
        }

    def run(self, *arguments: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [OPSPIPE, *arguments], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == expect, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str | Path) -> list[dict[str, object]]:
        answer: list[dict[str, object]] = json.loads(self.run(*arguments, "--json").stdout)
        return answer

    def processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if (
                    process.environ().get("OPSPIPE_HOME") == str(self.home)
                    or str(self.home) in process.cmdline()
                ):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return [process for process in found if process.pid != os.getpid()]


@pytest.fixture
def cli() -> Iterator[Cli]:
    with tempfile.TemporaryDirectory(prefix="opspipe-cli-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        made = Cli(Path(name))
        try:
            yield made
        finally:
            for process in made.processes():
                process.kill()
