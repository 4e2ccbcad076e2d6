"""Asking the workers whether they are there."""

import math
import threading
import time
from functools import lru_cache
from typing import NoReturn

from amqp.exceptions import Blocked
from kombu.exceptions import OperationalError
from kombu.pidbox import Mailbox

from tasks.app import app

_PING_SECONDS = 1.0
_REMEMBERED_SECONDS = 1.0
_FULL_COUNT_SECONDS = 10.0


def count_workers(*, enough: int | None = None) -> int:
    """Count the workers that answer within a second.

    Args:
        enough: do not wait for more than so many.

    The connection is a new one: one of the pool may have been closed by the broker since its last use, and
    it waits for confirms, which RabbitMQ does not send while it is short of memory or disk space.

    Raises:
        ConnectionError: the broker does not answer or takes no messages; its clients' errors have no class in
            common.
    """
    options = {"confirm_publish": False, "on_blocked": _refuse_to_wait}
    with app.connection_for_write(transport_options=options) as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0)
            return len(_mailbox()(connection).multi_call("ping", timeout=_PING_SECONDS, limit=enough))
        except (
            OperationalError,
            *connection.connection_errors,
            *connection.channel_errors,
            # Where the connection breaks meanwhile, kombu tidies up on a channel that is none any more.
            AttributeError,
        ) as error:
            # Dropped and not closed: a goodbye would wait for an answer.
            connection.collect()
            raise ConnectionError(f"the broker does not answer: {error}") from error


class WorkerCount:
    """How many workers answer, asked once a second at most however many want to know it.

    Nobody says that there are no more, so that each full count takes its second. In between the workers that
    are known are asked whether they are still there, which they answer at once.
    """

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._count = 0
        self._asked_at = self._counted_at = -math.inf
        self._error: ConnectionError | None = None

    def read(self) -> int:
        """Give the count.

        Raises:
            ConnectionError: the broker does not answer.
        """
        with self._asking:
            if time.monotonic() - self._asked_at > _REMEMBERED_SECONDS:
                self._ask()
            if self._error is not None:
                raise ConnectionError(str(self._error)) from self._error
            return self._count

    def _ask(self) -> None:
        is_full = not self._count or time.monotonic() - self._counted_at > _FULL_COUNT_SECONDS
        try:
            self._count = count_workers(enough=None if is_full else self._count)
        except ConnectionError as error:
            self._count, self._error = 0, error
        else:
            self._error = None
        self._asked_at = time.monotonic()
        if is_full:
            self._counted_at = self._asked_at


@lru_cache(maxsize=1)
def _mailbox() -> Mailbox:
    """Celery's remote control without its pool of producers."""
    return Mailbox(
        app.conf.control_exchange,
        type="fanout",
        clock=app.clock,
        accept=app.conf.accept_content,
        serializer=app.conf.task_serializer,
    )


def _refuse_to_wait(reason: str) -> NoReturn:
    """Give up where RabbitMQ says that it reads no more from this connection for now."""
    raise Blocked(reason)
