"""Alembic's environment: takes the connection from `pipeline.migrations` and needs no configuration file."""

from alembic import context

import schemas.own
import schemas.reference  # noqa: F401 - the tables register themselves
from schemas.base import Base

VERSION_TABLE = "opspipe_schema_version"


def run() -> None:
    """Run the migrations on the connection that the caller opened, in its transaction."""
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
