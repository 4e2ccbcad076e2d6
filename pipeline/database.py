"""Connections: one engine a process, one transaction a question. SQL lives beside the stage that needs it."""

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from pipeline.errors import TransientError
from pipeline.servers import endpoints

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection

T = TypeVar("T")

log = logging.getLogger(__name__)

# Classes and codes of SQLSTATE after which the same work may succeed: connection lost, transaction broken
# by a concurrent one, resources short, server stopping or starting.
_TRANSIENT_CLASSES = frozenset({"08", "40", "53", "57"})
_LOCK_NOT_AVAILABLE = "55P03"

# A deadlock is over at once; a server that starts again, maybe after a recovery from its log, takes its time.
# Pauses are short beside the lease that its return gives everybody anew (`ledger.is_expired`).
PATIENCE_SECONDS = 300.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 1.0

_NUMBER = text("SELECT CAST(pg_current_xact_id() AS text)")
_STATUS = text("SELECT pg_xact_status(CAST(:number AS xid8))")
_DO_NOT_WAIT = text("SET LOCAL synchronous_commit = off")

_CONNECT: Mapping[str, Any] = {"application_name": "opspipe", "connect_timeout": 10}
# Of who only asks, and whom others wait for: that a line is dead is noticed within seconds.
_WATCHED = {
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

_engine: Engine | None = None
# Of those who only ask.
_reader: Engine | None = None


def sqlalchemy_url(url: str) -> str:
    """Name the psycopg 3 driver in a plain `postgresql://` URL."""
    return "postgresql+psycopg://" + url.split("://", 1)[1]


def make_engine(url: str, *, connect: Mapping[str, Any] | None = None, **options: Any) -> Engine:  # noqa: ANN401 - as create_engine has them
    """Make an engine whose sessions are known by name in pg_stat_activity.

    Args:
        url: of the database.
        connect: more for its connections, as libpq names it.
        options: more for the engine, as `create_engine` has them.
    """
    return create_engine(
        sqlalchemy_url(url),
        # As many as were needed at once stay open: one or two of a worker, more of the web server's threads.
        pool_size=16,
        max_overflow=4,
        connect_args={**_CONNECT, **(connect or {})},
        **options,
    )


def get_engine() -> Engine:
    """Give the process's engine, made at first use: from the given URL or of the embedded server."""
    global _engine  # noqa: PLW0603 - one engine a process is the point
    if _engine is None:
        _engine = make_engine(endpoints().database_url, pool_pre_ping=True)
    return _engine


def forget_engine(*, close: bool = False) -> None:
    """Begin with new connections.

    Args:
        close: close those that were. After a fork they are the parent's and left alone: a shared one mixes up
            answers.
    """
    global _engine, _reader  # noqa: PLW0603 - see get_engine
    for engine in (_engine, _reader):
        if engine is not None:
            engine.dispose(close=close)
    _engine = _reader = None


def read(question: Callable[[psycopg.Connection[Any]], T]) -> T:
    """Ask what one statement answers, by the driver alone: for what is asked with each request.

    Args:
        question: asked with a connection of which each statement stands by itself; asked again where the
            connection turns out to have been closed since its last use.

    Raises:
        TransientError: the database did not answer.
    """
    global _reader  # noqa: PLW0603 - see get_engine
    if _reader is None:
        _reader = make_engine(
            endpoints().database_url, connect=_WATCHED, isolation_level="AUTOCOMMIT", pool_timeout=10
        )
    with translate_errors():
        try:
            return _ask(_reader, question)
        except _LostError:
            # What closed it, as a restart of the server, has closed the others too.
            _reader.dispose()
        try:
            return _ask(_reader, question)
        except _LostError as error:
            raise TransientError(f"the database did not answer: {one_line(error.__cause__)}") from error


class _LostError(Exception):
    """The connection is closed; the cause says why."""


def _ask(reader: Engine, question: Callable[[psycopg.Connection[Any]], T]) -> T:
    pooled = reader.raw_connection()
    connection = cast("psycopg.Connection[Any]", pooled.driver_connection)
    try:
        return question(connection)
    except psycopg.Error as error:
        if connection.closed:
            raise _LostError from error
        raise
    finally:
        # One that is closed is not kept.
        if connection.closed:
            pooled.invalidate()
        pooled.close()


@contextmanager
def transaction(*, is_durable: bool = True, is_sure: bool = False) -> Iterator[Session]:
    """Open a session in one transaction: committed at the end, rolled back on any error.

    Args:
        is_durable: False for what may be forgotten if the database crashes, as long as all that came after it
            is forgotten too: the commit does not wait for the disk.
        is_sure: where the connection breaks during the commit, ask whether it was committed. For what must
            not happen twice, and one question more.

    Raises:
        TransientError: the database broke or refused the transaction in a way that may pass.
    """
    with translate_errors(), Session(get_engine(), expire_on_commit=False) as session:
        session.begin()
        if not is_durable:
            session.execute(_DO_NOT_WAIT)
        yield session
        number = session.scalar(_NUMBER) if is_sure else None
        try:
            session.commit()
        except DBAPIError as error:
            if number is None or not is_transient(error.orig) or not _is_committed(number):
                raise


def _is_committed(number: str) -> bool:
    """Tell whether a transaction was committed, once the database can be asked; False where it cannot."""

    def ask() -> bool:
        with translate_errors(), get_engine().connect() as connection:
            status = connection.scalar(_STATUS, {"number": number})
        if status == "in progress":
            # Whose connection broke during the commit may be at it for a moment more.
            raise TransientError("the commit is under way")
        return bool(status == "committed")

    try:
        return retried(ask)
    except (TransientError, DBAPIError):
        # A number that a crash has forgotten is an error to ask for.
        return False


def retried(work: Callable[[], T]) -> T:
    """Do what writes dear results again until the database finishes it, for some minutes.

    Args:
        work: opens its own transaction, and may be done any number of times.

    Returns:
        What the work gives.

    Raises:
        TransientError: the database did not finish it the last time either.
    """
    give_up_at, pause = time.monotonic() + PATIENCE_SECONDS, _FIRST_PAUSE_SECONDS
    while True:
        try:
            return work()
        except TransientError as error:
            if time.monotonic() > give_up_at:
                raise
            log.warning("done again: %s", error)
            time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, no secret
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Make a TransientError of what the database may do better later; other errors pass as they are.

    Raises:
        TransientError: as said.
    """
    try:
        yield
    except PoolTimeoutError as error:
        raise TransientError("every connection to the database is in use") from error
    except (DBAPIError, psycopg.Error) as error:
        # COPY speaks to the driver directly, so its errors come without SQLAlchemy's wrapping.
        cause = error.orig if isinstance(error, DBAPIError) else error
        if is_transient(cause):
            raise TransientError(f"the database did not finish the work: {one_line(cause)}") from error
        raise


def is_transient(error: BaseException | None) -> bool:
    """Tell whether the same transaction may succeed later, by the driver's error."""
    state = getattr(error, "sqlstate", None)
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in _TRANSIENT_CLASSES or state == _LOCK_NOT_AVAILABLE


def one_line(error: BaseException | None) -> str:
    """Reduce an exception's text to its first line."""
    return str(error).strip().split("\n", 1)[0] or type(error).__name__


def driver_connection(session: Session) -> psycopg.Connection[Any]:
    """Give the session's psycopg connection, inside the session's transaction, for COPY."""
    connection: DBAPIConnection | None = session.connection().connection.driver_connection
    if not isinstance(connection, psycopg.Connection):
        raise TypeError(f"expected a psycopg connection, found {type(connection).__name__}")
    return connection
