"""Where the database and the broker are: given by URL, or embedded under OPSPIPE_HOME.

Nothing starts before somebody asks for its URL.
"""

import atexit
import threading

from pipeline.servers.embedded import EmbeddedServer
from pipeline.servers.postgres import EmbeddedPostgres
from pipeline.servers.valkey import EmbeddedValkey
from pipeline.settings import get_settings

__all__ = ["EmbeddedPostgres", "EmbeddedValkey", "Endpoints", "endpoints", "release"]


class Endpoints:
    """The URLs of this process, found at first use and held until `release`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._urls: dict[type[EmbeddedServer], str] = {}
        self._servers: list[EmbeddedServer] = []

    @property
    def database_url(self) -> str:
        """The `postgresql://` URL, of the given database or of the embedded one, which this starts.

        Raises:
            FatalError: the embedded PostgreSQL does not start.
        """
        return get_settings().database_url or self._embedded(EmbeddedPostgres, "postgres")

    @property
    def broker_url(self) -> str:
        """The broker's URL, of the given one or of the embedded Valkey, which this starts.

        Raises:
            FatalError: the embedded Valkey does not start.
        """
        return get_settings().broker_url or self._embedded(EmbeddedValkey, "valkey")

    def _embedded(self, kind: type[EmbeddedServer], name: str) -> str:
        settings = get_settings()
        with self._lock:
            if kind not in self._urls:
                server = kind(
                    settings.home / name, durable=settings.durable, remove_at_end=settings.temporary
                )
                self._servers.append(server)
                self._urls[kind] = server.start()
            return self._urls[kind]

    def release(self) -> None:
        """Let go of the embedded servers; those that nobody else uses have stopped on return."""
        with self._lock:
            for server in self._servers:
                server.release()
            self._servers.clear()
            self._urls.clear()


_endpoints = Endpoints()


def endpoints() -> Endpoints:
    """Give the process's endpoints."""
    return _endpoints


def release() -> None:
    """Let go of the embedded servers, if this process uses any."""
    _endpoints.release()


atexit.register(release)
