"""Services whose lives are tied to the process that supervises them: workers, beat, Flower, the API."""

from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

from pipeline.errors import FatalError
from pipeline.servers.guarding import GuardFolder, Service

__all__ = ["Service", "Supervisor"]


class Supervisor:
    """Runs services through a guard; they end with `stop`, or with this process, however it ends."""

    def __init__(self, folder: Path, services: Sequence[Service]) -> None:
        self._guard = GuardFolder(folder)
        self._services = services

    def start(self) -> None:
        """Start the services; each that ends is started again after a growing delay."""
        self._guard.join()
        self._guard.launch(self._services)

    def status(self) -> dict[str, Any]:
        """Say for each service its process id, restarts and last exit code."""
        status = self._guard.status()
        return status["services"] if status else {}

    def check(self) -> None:
        """See that the guard is there.

        Raises:
            FatalError: it is gone, and the services with it.
        """
        if not self._guard.is_guarded():
            raise FatalError(
                f"the guard of the worker processes has ended: see {self._guard.path / 'guard.log'}"
            )

    def stop(self) -> None:
        """Stop the services and wait until the last of them has ended."""
        self._guard.leave()
        rmtree(self._guard.path, ignore_errors=True)
