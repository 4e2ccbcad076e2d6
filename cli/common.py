"""What several commands do first: a database of the right revision, a project, workers that answer."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from pipeline.database import get_engine, transaction
from pipeline.migrations import ensure_schema
from pipeline.settings import get_settings


def prepare_database() -> None:
    """Make sure that the schema is there: the embedded database is upgraded, a given one only checked.

    Raises:
        FatalError: the given database is of another revision; says what to run.
    """
    ensure_schema(get_engine(), may_upgrade=not get_settings().database_url)


@contextmanager
def database() -> Iterator[Session]:
    """Open a transaction on a database of the right revision."""
    prepare_database()
    with transaction() as session:
        yield session
