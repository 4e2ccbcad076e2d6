"""Bringing a database to the newest revision, and telling where it differs from the models."""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, Connection, Engine, Enum, Inspector, Table, inspect, text

import schemas.migrations
import schemas.own
import schemas.reference
from pipeline.database import get_engine, translate_errors
from pipeline.errors import FatalError
from pipeline.settings import get_settings
from schemas.base import Base

_VERSION_TABLE = "opspipe_schema_version"
_TRIGGERS = {
    "data_records": (
        "opspipe_forget_deleted",
        "opspipe_forget_truncated",
        "opspipe_claim_inserted",
        "opspipe_claim_updated",
    ),
    "audit_log": ("opspipe_keep_audit_log",),
}
# Any number will do, as long as every process takes the same.
_LOCK = 0x6F7073706970


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(schemas.migrations.__file__).parent))
    config.attributes["connection"] = connection
    return config


def newest_revision() -> str:
    """Give the revision that this version of opspipe works with."""
    config = Config()
    config.set_main_option("script_location", str(Path(schemas.migrations.__file__).parent))
    head = ScriptDirectory.from_config(config).get_current_head()
    if head is None:
        raise FatalError("there are no migrations: the installation is incomplete")
    return head


def current_revision(engine: Engine) -> str | None:
    """Give the database's revision; None where it was never upgraded."""
    with engine.connect() as connection:
        return _context(connection).get_current_revision()


def _context(connection: Connection) -> MigrationContext:
    options: dict[str, Any] = {
        "version_table": _VERSION_TABLE,
        "compare_type": True,
        "compare_server_default": True,
        "include_object": _is_ours,
        "target_metadata": Base.metadata,
    }
    return MigrationContext.configure(connection, opts=options)


def _is_ours(item: Any, name: str | None, kind: str, is_reflected: bool, _other: Any) -> bool:  # noqa: ANN401, FBT001 - Alembic's signature
    # Tables of another application in the same database are none of our business, and auth.users may be
    # Supabase's: that it is there is seen by the foreign key on it.
    if kind != "table":
        return True
    return name in Base.metadata.tables if is_reflected else item.schema is None


def _our_tables() -> list[Table]:
    return [table for table in Base.metadata.sorted_tables if table.schema is None]


def upgrade(engine: Engine) -> str:
    """Bring the database to the newest revision; two at once do it one after the other.

    Returns:
        The revision it is at now.
    """
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        command.upgrade(_config(connection), "head")
    return newest_revision()


def downgrade(engine: Engine, revision: str) -> None:
    """Take the database back to an earlier revision (`base`: nothing of ours is left)."""
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        command.downgrade(_config(connection), revision)


def ensure_schema(engine: Engine, *, may_upgrade: bool) -> None:
    """See that the database is at the newest revision.

    Raises:
        FatalError: it is not, and may not be upgraded unasked; says what to run.
    """
    current, newest = current_revision(engine), newest_revision()
    if current == newest:
        return
    if not may_upgrade:
        raise FatalError(
            f"the database is at revision {current or 'none'} and this version needs {newest}: "
            "run `opspipe db upgrade`"
        )
    upgrade(engine)


def prepare_database() -> None:
    """See that this process's database is ready: the embedded one is upgraded, a given one only checked.

    Raises:
        FatalError: the given database is of another revision; says what to run.
        TransientError: it does not answer.
    """
    with translate_errors():
        ensure_schema(get_engine(), may_upgrade=not get_settings().database_url)


def check(engine: Engine) -> list[str]:
    """List where the database differs from the models, a readable line each; empty where it does not."""
    current, newest = current_revision(engine), newest_revision()
    if current is None:
        return ["the database was never upgraded: run `opspipe db upgrade`"]
    drift = [] if current == newest else [f"the database is at revision {current}, the newest is {newest}"]
    with engine.connect() as connection:
        for difference in compare_metadata(_context(connection), Base.metadata):
            drift.extend(_describe(difference))
        drift += _unlike_enums(connection)
        inspector = inspect(connection)
        present = set(inspector.get_table_names())
        for table in _our_tables():
            if table.name in present:
                drift += _missing_constraints(inspector, table) + _unlike_predicates(inspector, table)
        drift += _idle_triggers(connection)
    return drift


# From here on: what Alembic does not compare.


def _unlike_enums(connection: Connection) -> list[str]:
    columns = (column for table in _our_tables() for column in table.columns)
    wanted = {column.type.name: column.type.enums for column in columns if isinstance(column.type, Enum)}
    rows = connection.execute(
        text("""
            SELECT typname, array_agg(enumlabel::text ORDER BY enumsortorder) AS labels
            FROM pg_type JOIN pg_enum ON enumtypid = pg_type.oid WHERE pg_type_is_visible(pg_type.oid)
            GROUP BY typname
        """)
    )
    found = {row.typname: row.labels for row in rows}
    return [
        f"the enum {name} is {found.get(name)} and should be {labels}"
        for name, labels in wanted.items()
        if found.get(name) != labels
    ]


def _missing_constraints(inspector: Inspector, table: Table) -> list[str]:
    found = {constraint["name"] for constraint in inspector.get_check_constraints(table.name)}
    found.add(inspector.get_pk_constraint(table.name)["name"])
    checks = [constraint for constraint in table.constraints if isinstance(constraint, CheckConstraint)]
    return [
        f"the database lacks constraint {constraint.name} of {table.name}"
        for constraint in (table.primary_key, *checks)
        if constraint.name not in found
    ]


def _unlike_predicates(inspector: Inspector, table: Table) -> list[str]:
    found = {
        index["name"]: "postgresql_where" in index.get("dialect_options", {})
        for index in inspector.get_indexes(table.name)
    }
    wanted = {index.name: index.dialect_options["postgresql"]["where"] is not None for index in table.indexes}
    return [
        f"index {name} of {table.name} should {'' if is_partial else 'not '}be partial"
        for name, is_partial in wanted.items()
        if found.get(name, is_partial) is not is_partial
    ]


def _idle_triggers(connection: Connection) -> list[str]:
    query = text("SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass(:table) AND tgenabled <> 'D'")
    at_work = {table: set(connection.scalars(query, {"table": table})) for table in _TRIGGERS}
    return [
        f"{table} lacks the trigger {name}"
        for table, names in _TRIGGERS.items()
        for name in names
        if name not in at_work[table]
    ]


def _describe(difference: Any) -> list[str]:  # noqa: ANN401 - Alembic's tuples come in many shapes
    if isinstance(difference, list):
        return [line for part in difference for line in _describe(part)]
    kind, *rest = difference
    if kind.endswith("_comment"):  # anybody may write comments
        return []
    if kind in {"add_table", "remove_table"}:
        what = f"table {rest[0].name}"
    elif kind in {"add_column", "remove_column"}:
        what = f"column {rest[1]}.{rest[2].name}"
    elif kind.startswith("modify_"):
        return [f"{rest[1]}.{rest[2]}: {kind.removeprefix('modify_')} is {rest[4]} and should be {rest[5]}"]
    else:
        what = f"{kind.split('_', 1)[1]} {rest[0].name} of {rest[0].table.name}"
    # Alembic speaks of what a migration would do; people ask what the database has.
    return [
        f"the database lacks {what}" if kind.startswith("add_") else f"the database has an unknown {what}"
    ]
