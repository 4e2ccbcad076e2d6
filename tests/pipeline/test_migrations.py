"""Migrations on a database of their own: up, up again, down; and drift is told."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from pipeline.database import make_engine
from pipeline.errors import FatalError
from pipeline.migrations import check, current_revision, downgrade, ensure_schema, newest_revision, upgrade


@pytest.fixture
def empty(database_url: str) -> Iterator[Engine]:
    """A database with nothing in it."""
    admin = create_engine(database_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE DATABASE migrations"))
    url = make_url(database_url).set(database="migrations").render_as_string(hide_password=False)
    engine = make_engine(url.replace("postgresql+psycopg", "postgresql"))
    try:
        yield engine
    finally:
        engine.dispose()
        with admin.connect() as connection:
            connection.execute(text("DROP DATABASE migrations"))
        admin.dispose()


def _run(engine: Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(statement))


def test_an_empty_database_is_upgraded_and_then_as_the_models_say(empty: Engine) -> None:
    assert check(empty) == ["the database was never upgraded: run `opspipe db upgrade`"]
    assert upgrade(empty) == newest_revision() == current_revision(empty)
    assert check(empty) == []


def test_a_second_upgrade_changes_nothing(empty: Engine) -> None:
    upgrade(empty)
    assert upgrade(empty) == newest_revision()


def test_a_downgrade_leaves_nothing_of_ours(empty: Engine) -> None:
    upgrade(empty)
    downgrade(empty, "base")
    with empty.connect() as connection:
        left = connection.scalars(
            text("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")
        )
        assert list(left) == ["opspipe_schema_version"]
        assert connection.scalar(text("SELECT count(*) FROM pg_type WHERE typname = 'RecordType'")) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("DROP INDEX idx_record_type", "the database lacks index idx_record_type of data_records"),
        ("ALTER TABLE data_records ADD extra int", "the database has an unknown column data_records.extra"),
        ("ALTER TABLE projects DROP guidelines", "the database lacks column projects.guidelines"),
        ("DROP TABLE likert_scores", "the database lacks table likert_scores"),
        ("ALTER TABLE ingest_jobs ALTER error TYPE varchar", "ingest_jobs.error: type is VARCHAR"),
        ("ALTER TABLE ingest_jobs ALTER status DROP NOT NULL", "ingest_jobs.status: nullable is True"),
        ("ALTER TABLE ingest_jobs ALTER status DROP DEFAULT", "ingest_jobs.status: default is None"),
        ("DROP TRIGGER opspipe_forget_deleted ON data_records", "lacks the trigger opspipe_forget_deleted"),
    ],
)
def test_a_difference_is_told_in_a_readable_line(empty: Engine, change: str, told: str) -> None:
    upgrade(empty)
    _run(empty, change)
    drift = check(empty)
    assert any(told in line for line in drift), drift


def test_tables_of_another_application_are_none_of_our_business(empty: Engine) -> None:
    upgrade(empty)
    _run(empty, "CREATE TABLE somebody_elses (id int)")
    assert check(empty) == []


def test_a_given_database_is_never_upgraded_unasked(empty: Engine) -> None:
    with pytest.raises(FatalError, match="opspipe db upgrade"):
        ensure_schema(empty, may_upgrade=False)
    assert current_revision(empty) is None
    ensure_schema(empty, may_upgrade=True)
    ensure_schema(empty, may_upgrade=False)
