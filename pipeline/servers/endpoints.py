"""Where the database and the broker are: the URLs that were given, otherwise the embedded servers.

One place a process. Nothing else starts an embedded server for the application.
"""

import atexit
import threading
from dataclasses import dataclass
from pathlib import Path

from pipeline.servers.embedded import EmbeddedServer
from pipeline.servers.postgres import EmbeddedPostgres
from pipeline.servers.valkey import EmbeddedValkey
from pipeline.settings import Settings, get_settings

_servers: dict[Path, tuple[EmbeddedServer, str]] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Endpoints:
    """The URLs of database and broker, with their passwords."""

    database_url: str
    broker_url: str


def endpoints(settings: Settings | None = None) -> Endpoints:
    """Both URLs; starts or joins the embedded servers for what is not given.

    Raises:
        FatalError, TransientError: an embedded server cannot be started; see `EmbeddedServer.start`.
    """
    return Endpoints(database_url=database_url(settings), broker_url=broker_url(settings))


def database_url(settings: Settings | None = None) -> str:
    """The URL of the database; starts or joins the embedded PostgreSQL where none is given."""
    settings = settings or get_settings()
    return settings.database_url or _use(EmbeddedPostgres, settings.home / "postgres", settings)


def broker_url(settings: Settings | None = None) -> str:
    """The URL of the broker; starts or joins the embedded Valkey where none is given."""
    settings = settings or get_settings()
    return settings.broker_url or _use(EmbeddedValkey, settings.home / "valkey", settings)


def release() -> None:
    """Let go of the embedded servers; the last process to do so waits until they have ended.

    In a process forked from a user it only forgets them: the hold is its parent's.
    """
    with _lock:
        for server, _url in _servers.values():
            server.release()
        _servers.clear()


def _use(kind: type[EmbeddedServer], folder: Path, settings: Settings) -> str:
    with _lock:
        if folder not in _servers:
            server = kind(folder, durable=settings.durable)
            _servers[folder] = (server, server.start())
        return _servers[folder][1]


atexit.register(release)
