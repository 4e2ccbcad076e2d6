"""Migrations on a database of their own: up, up again, down; and drift is told."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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


def test_two_upgrades_at_once_do_it_one_after_the_other(empty: Engine) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(upgrade, [empty, empty])) == [newest_revision()] * 2
    assert check(empty) == []


def test_a_downgrade_leaves_nothing_of_ours(empty: Engine) -> None:
    upgrade(empty)
    downgrade(empty, "base")
    with empty.connect() as connection:
        left = connection.scalars(
            text("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")
        )
        assert list(left) == ["opspipe_schema_version"]
        ours = "SELECT count(*) FROM pg_type WHERE typname IN ('UserRole', 'RecordType', 'RecordCategory')"
        assert connection.scalar(text(ours)) == 0
        assert connection.scalar(text("SELECT count(*) FROM pg_proc WHERE proname LIKE 'opspipe%'")) == 0
        assert connection.scalar(text("SELECT to_regnamespace('auth')")) is None
    assert upgrade(empty) == newest_revision()


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
        (
            "ALTER TABLE data_records DISABLE TRIGGER opspipe_forget_truncated",
            "lacks the trigger opspipe_forget_truncated",
        ),
        ("DROP TRIGGER opspipe_keep_audit_log ON audit_log", "lacks the trigger opspipe_keep_audit_log"),
        ("DROP TABLE auth.users CASCADE", "the database lacks fk profiles_id_fkey of profiles"),
        ("DROP TABLE data_records CASCADE", "the database lacks table data_records"),
        ("ALTER TYPE \"RecordType\" ADD VALUE 'NOTE'", "the enum RecordType is ['TASK', 'FEEDBACK', 'NOTE']"),
        (
            "ALTER TABLE alignments DROP CONSTRAINT alignments_score_check",
            "the database lacks constraint alignments_score_check of alignments",
        ),
        (
            "ALTER TABLE likert_scores DROP CONSTRAINT likert_scores_pkey",
            "the database lacks constraint likert_scores_pkey of likert_scores",
        ),
        (
            'ALTER TABLE likert_scores DROP CONSTRAINT "likert_scores_recordId_fkey"',
            "the database lacks fk likert_scores_recordId_fkey of likert_scores",
        ),
        (
            """DROP INDEX analytics_jobs_one_active;
            CREATE UNIQUE INDEX analytics_jobs_one_active ON analytics_jobs ("projectId")""",
            "index analytics_jobs_one_active of analytics_jobs should be partial",
        ),
    ],
)
def test_a_difference_is_told_in_a_readable_line(empty: Engine, change: str, told: str) -> None:
    upgrade(empty)
    _run(empty, change)
    drift = check(empty)
    assert any(told in line for line in drift), drift


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE somebody_elses (id int)",
        "CREATE SCHEMA other; CREATE TABLE other.data_records (id int)",
        "CREATE TABLE users (id int)",
        "ALTER TABLE auth.users ADD aud varchar, DROP updated_at, ALTER email TYPE text",
        "COMMENT ON TABLE data_records IS 'ours'",
        "COMMENT ON COLUMN data_records.id IS 'ours'",
    ],
)
def test_tables_of_another_application_and_comments_are_none_of_our_business(
    empty: Engine, change: str
) -> None:
    upgrade(empty)
    _run(empty, change)
    assert check(empty) == []


def test_a_given_database_is_never_upgraded_unasked(empty: Engine) -> None:
    with pytest.raises(FatalError, match="opspipe db upgrade"):
        ensure_schema(empty, may_upgrade=False)
    assert current_revision(empty) is None
    ensure_schema(empty, may_upgrade=True)
    ensure_schema(empty, may_upgrade=False)


def test_a_record_with_several_origins_keeps_none_of_them(empty: Engine) -> None:
    upgrade(empty)
    downgrade(empty, "0004")
    _run(
        empty,
        """
        INSERT INTO record_embeddings (digest, record_id) VALUES
            (gen_random_uuid(), 'one'), (gen_random_uuid(), 'two'), (gen_random_uuid(), 'two')
        """,
    )
    upgrade(empty)
    with empty.connect() as connection:
        assert list(connection.scalars(text("SELECT record_id FROM record_embeddings"))) == ["one"]
    assert check(empty) == []


# As Supabase makes it, as far as it matters here.
_SUPABASE = """
CREATE SCHEMA auth;
CREATE TABLE auth.users (id uuid PRIMARY KEY, email varchar(255), aud varchar(255), role varchar(255),
    encrypted_password varchar(255), raw_user_meta_data jsonb, created_at timestamptz,
    updated_at timestamptz);
CREATE UNIQUE INDEX users_email_partial_key ON auth.users (email);
INSERT INTO auth.users (id, email, aud) VALUES
    ('00000000-0000-0000-0000-000000000001', 'ann@example.com', 'authenticated');
"""


def test_the_users_of_supabase_are_found_and_kept(empty: Engine) -> None:
    _run(empty, _SUPABASE)
    upgrade(empty)
    assert check(empty) == []
    _run(empty, "INSERT INTO profiles (id, email) SELECT id, email FROM auth.users")
    downgrade(empty, "0005")
    upgrade(empty)
    downgrade(empty, "base")
    with empty.connect() as connection:
        assert list(connection.scalars(text("SELECT aud FROM auth.users"))) == ["authenticated"]


def test_a_profile_that_was_there_gets_a_user(empty: Engine) -> None:
    upgrade(empty)
    downgrade(empty, "0005")
    _run(empty, "INSERT INTO profiles (id, email) VALUES (gen_random_uuid(), 'ann@example.com')")
    upgrade(empty)
    with empty.connect() as connection:
        found = connection.execute(
            text("SELECT auth.users.email FROM auth.users JOIN profiles USING (id)")
        ).all()
    assert found == [("ann@example.com",)]
    assert check(empty) == []
