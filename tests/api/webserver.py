"""A real gunicorn, started as `opspipe up` starts it."""

import http.client
import os
import socket
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psutil

from cli.services import web
from pipeline.settings import get_settings

_ROOT = Path(__file__).parents[2]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class WebServer:
    """The web server on a port that stays the same when it is started again."""

    def __init__(self, folder: Path, wait: Callable[..., None]) -> None:
        self._wait = wait
        self.port = _free_port()
        self.uploads = folder / "uploads"
        self.log_path = folder / "web.log"
        # What is set for it beside what is set for the tests.
        self.environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self, **environment: str) -> None:
        """Start it, again where it runs; gives back control when it answers."""
        self.kill()
        self.environment = environment
        settings = get_settings().model_copy(update={"port": self.port})
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                web(settings, self.log_path.parent).command,
                cwd=_ROOT,
                env=os.environ | {"PYTHONPATH": str(_ROOT)} | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait(self._answers, what="an answer of gunicorn")

    def _answers(self) -> bool:
        with (
            suppress(OSError),
            closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)) as line,
        ):
            line.request("GET", "/api/status")
            with line.getresponse() as answer:
                return answer.status == 200
        return False

    def worker(self) -> psutil.Process:
        """Give the process that answers requests; its parent only watches."""
        assert self._process is not None
        (found,) = psutil.Process(self._process.pid).children()
        return found

    def ask_to_stop(self) -> None:
        """Ask it to end as `opspipe up` does: it answers what is under way."""
        assert self._process is not None
        self._process.terminate()

    def kill(self) -> None:
        """End all of it as a crash of the machine would."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None
