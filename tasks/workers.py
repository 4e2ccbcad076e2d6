"""Asking the workers whether they are there."""

from functools import lru_cache
from typing import NoReturn

from amqp.exceptions import Blocked
from kombu.exceptions import OperationalError
from kombu.pidbox import Mailbox

from tasks.app import app

_PING_SECONDS = 1.0


def count_workers() -> int:
    """Count the workers that answer within a second.

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
            return len(_mailbox()(connection).multi_call("ping", timeout=_PING_SECONDS))
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
