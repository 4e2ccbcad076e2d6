"""One at a time over all processes, for work that calls a server and so must have no transaction open."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import func, select

from pipeline.database import get_engine, translate_errors

_PAUSE_SECONDS = 0.1


@contextmanager
def alone(key: str, *, patience_seconds: float) -> Iterator[None]:
    """Let one block of a key run at a time.

    The lock is one of PostgreSQL's sessions: it ends with its connection, however the process ends.

    Args:
        key: what the block is about.
        patience_seconds: how long to wait for another block of the key; after that this one runs beside it.

    Raises:
        TransientError: the database is not there for the moment.
    """
    deadline = time.monotonic() + patience_seconds
    with translate_errors():
        # Of its own and not the pool's: whoever waits must not take the connections of those who work.
        connection = get_engine().connect()
    with connection:
        with translate_errors():
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.detach()
            is_mine = select(func.pg_try_advisory_lock(func.hashtextextended(key, 0)))
            # Asked for again and again: a statement that waits for the lock would be an open transaction.
            while not connection.scalar(is_mine) and time.monotonic() < deadline:
                time.sleep(_PAUSE_SECONDS)
        yield
