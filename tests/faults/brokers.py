"""The brokers that the suite can run on, and what it asks of them: one protocol, whatever the URL."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from amqp.exceptions import NotFound
from kombu import Connection
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from pipeline.servers import endpoints
from pipeline.settings import get_settings
from tests.faults.guarded import GuardedServer
from tests.faults.rabbitmq import RabbitServer

QUEUES = ("ingest", "vectorize", "analyze", "schedule")


class Broker(Protocol):
    """A broker under a guard, and its queues."""

    server: GuardedServer

    def answers(self) -> bool:
        """Tell whether it can be talked to at this moment."""

    def empty(self) -> None:
        """Lose every message."""

    def queued(self) -> dict[str, int]:
        """Count the messages on each queue that nobody holds."""


class Valkey:
    """The embedded one."""

    def __init__(self) -> None:
        self.server = GuardedServer(get_settings().home / "valkey")

    def answers(self) -> bool:
        """Tell whether it can be talked to at this moment."""
        try:
            with self._connect() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def empty(self) -> None:
        """Lose every message, those that workers hold too."""
        with self._connect() as client:
            client.flushall()

    def queued(self) -> dict[str, int]:
        """Count the messages on each queue that nobody holds."""
        with self._connect() as client:
            # A queue is a list for each priority.
            return {
                name: sum(int(str(client.llen(key))) for key in client.keys(f"opspipe:{name}*"))
                for name in QUEUES
            }

    def _connect(self) -> Redis:
        return Redis.from_url(endpoints().broker_url, socket_timeout=2)


class RabbitMQ:
    """Debian's, started by the suite."""

    def __init__(self, server: RabbitServer) -> None:
        self.server = server

    def answers(self) -> bool:
        """Tell whether it can be talked to at this moment, queues included."""
        try:
            self.queued()
        except OperationalError:
            return False
        return True

    def empty(self) -> None:
        """Lose every message that waits; what workers hold is not on the queue and cannot be purged."""
        for name in QUEUES:
            self._ask(name, lambda channel, name: channel.queue_purge(name))

    def queued(self) -> dict[str, int]:
        """Count the messages on each queue that nobody holds."""
        return {name: self._ask(name, _count) for name in QUEUES}

    def _ask(self, name: str, question: Callable[[Any, str], int]) -> int:
        """Ask for a number; 0 where there is no queue, as before the first worker has declared it."""
        with self.connect() as connection:
            try:
                return question(connection.default_channel, name)
            except NotFound:
                return 0

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Open a connection of one's own to the broker."""
        with Connection(self.server.url, connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            yield connection


def _count(channel: Any, name: str) -> int:  # noqa: ANN401 - py-amqp ships no types
    return int(channel.queue_declare(name, passive=True).message_count)
