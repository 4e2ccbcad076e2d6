"""What several commands do first: a database of the right revision, a project, workers that answer."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.migrations import prepare_database


@contextmanager
def database() -> Iterator[Session]:
    """Open a transaction on a database of the right revision."""
    prepare_database()
    with transaction() as session:
        yield session
