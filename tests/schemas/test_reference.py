"""The live database, held against a copy of the reference's tables: column by column, index by index."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

REFERENCE = Path(__file__).with_name("reference_tables.md").read_text()
TABLES = {
    "Profile": "profiles",
    "Project": "projects",
    "DataRecord": "data_records",
    "IngestJob": "ingest_jobs",
    "AnalyticsJob": "analytics_jobs",
    "SystemSetting": "system_settings",
    "BonusWindow": "bonus_windows",
    "LikertScore": "likert_scores",
}
TYPES = {
    "VARCHAR": "character varying",
    "TEXT": "text",
    "CUID": "text",
    "UUID": "uuid",
    "TIMESTAMP": "timestamp without time zone",
    "TIMESTAMPTZ": "timestamp with time zone",
    "JSONB": "jsonb",
    "INT": "integer",
    "BOOLEAN": "boolean",
    "FLOAT[]": "double precision[]",
}


@dataclass(frozen=True)
class Column:
    table: str
    name: str
    type: str
    constraints: str

    @property
    def default(self) -> str | None:
        found = re.search(r"DEFAULT (\S+( \S+)*?)(,|$)", self.constraints)
        return found.group(1) if found else None

    @property
    def is_nullable(self) -> bool:
        # docs/decisions/0005-nullability.md: a DEFAULT without NULLABLE means NOT NULL.
        if "NULLABLE" in self.constraints:
            return True
        return not ("NOT NULL" in self.constraints or "PK" in self.constraints or self.default)


def _columns() -> list[Column]:
    found = []
    for title, body in re.findall(r"^### (\w+)\n(.*?)(?=^### |^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL):
        if title in TABLES:
            rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", body, re.MULTILINE)
            found += [Column(TABLES[title], name, kind.strip(), rule.strip()) for name, kind, rule in rows]
    return found


COLUMNS = _columns()
ENUMS = {
    name: re.findall(r"^  (\w+)", body, re.MULTILINE)
    for name, body in re.findall(r"^enum (\w+) \{\n(.*?)^\}", REFERENCE, re.MULTILINE | re.DOTALL)
}
INDEXES = re.findall(r"^CREATE INDEX (\w+) ON (\w+)\(([^)]+)\);", REFERENCE, re.MULTILINE)


def _live(session: Session, table: str) -> dict[str, dict[str, Any]]:
    rows = session.execute(
        text("""
            SELECT attribute.attname AS name, format_type(atttypid, atttypmod) AS type,
                   NOT attnotnull AS is_nullable, pg_get_expr(adbin, adrelid) AS default, attgenerated
            FROM pg_attribute AS attribute
            LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
            WHERE attrelid = CAST(:table AS regclass) AND attnum > 0 AND NOT attisdropped
        """),
        {"table": table},
    )
    return {row.name: dict(row._mapping) for row in rows}


def test_the_copy_has_all_of_the_reference() -> None:
    assert {column.table for column in COLUMNS} == set(TABLES.values())
    assert (len(COLUMNS), len(ENUMS), len(INDEXES)) == (75, 3, 13)


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: f"{column.table}.{column.name}")
def test_a_column_is_as_the_reference_says(session: Session, column: Column) -> None:
    live = _live(session, column.table)[column.name]
    assert live["type"].strip('"') == TYPES.get(column.type, column.type)
    assert live["is_nullable"] is column.is_nullable


@pytest.mark.parametrize(
    "column",
    [column for column in COLUMNS if column.default],
    ids=lambda column: f"{column.table}.{column.name}",
)
def test_a_default_is_as_the_reference_says(session: Session, column: Column) -> None:
    live = str(_live(session, column.table)[column.name]["default"])
    if column.default == "now()":
        # Without a zone the default is the moment in UTC, not in the session's zone.
        assert live == ("now()" if column.type == "TIMESTAMPTZ" else "(now() AT TIME ZONE 'utc'::text)")
    elif column.default == "[]":
        assert live == "'{}'::double precision[]"
    else:
        assert live.split("::", maxsplit=1)[0] == column.default


@pytest.mark.parametrize("table", TABLES.values())
def test_a_table_has_no_further_columns(session: Session, table: str) -> None:
    ordinary = {name for name, live in _live(session, table).items() if not live["attgenerated"]}
    assert ordinary == {column.name for column in COLUMNS if column.table == table}


def _constraints(session: Session, kind: str) -> set[str]:
    rows = session.scalars(
        text("""
            SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
            WHERE contype = :kind AND conrelid::regclass::text = ANY(:tables)
        """),
        {"kind": kind, "tables": list(TABLES.values())},
    )
    return set(rows)


def test_primary_keys_are_those_of_the_reference(session: Session) -> None:
    keys = {f"{c.table} PRIMARY KEY ({c.name})" for c in COLUMNS if c.constraints.startswith("PK")}
    assert _constraints(session, "p") == keys


def test_unique_constraints_are_those_of_the_reference(session: Session) -> None:
    assert _constraints(session, "u") == {
        f"{column.table} UNIQUE ({column.name})" for column in COLUMNS if "UNIQUE" in column.constraints
    }


def test_foreign_keys_are_those_of_the_reference(session: Session) -> None:
    expected = set()
    for column in COLUMNS:
        if found := re.search(r"FK → (\w+)", column.constraints):
            # docs/decisions/0005-nullability.md: a project outlives its owner.
            end = "SET NULL" if column.name == "ownerId" else "CASCADE"
            expected.add(
                f'{column.table} FOREIGN KEY ("{column.name}") REFERENCES {TABLES[found.group(1)]}(id) '
                f"ON UPDATE CASCADE ON DELETE {end}"
            )
    # "Links to Supabase `auth.users` via foreign key", which no row of the reference's tables shows.
    expected.add("profiles FOREIGN KEY (id) REFERENCES auth.users(id) ON DELETE CASCADE")
    assert _constraints(session, "f") == expected


@pytest.mark.parametrize(("name", "labels"), ENUMS.items())
def test_an_enum_has_the_labels_of_the_reference_in_order(
    session: Session, name: str, labels: list[str]
) -> None:
    live = session.scalars(
        text("SELECT enumlabel FROM pg_enum WHERE enumtypid = CAST(:name AS regtype) ORDER BY enumsortorder"),
        {"name": f'"{name}"'},
    )
    assert list(live) == labels


@pytest.mark.parametrize(("name", "table", "columns"), INDEXES)
def test_a_named_index_is_on_the_named_columns(session: Session, name: str, table: str, columns: str) -> None:
    definition = session.scalar(
        text("SELECT indexdef FROM pg_indexes WHERE indexname = :name AND tablename = :table"),
        {"name": name, "table": table},
    )
    assert definition is not None
    live = definition.rsplit("(", 1)[1].rstrip(")").replace('"', "")
    assert live == columns


INSERTS = """
INSERT INTO auth.users (id, email) VALUES ('00000000-0000-0000-0000-000000000001', 'a@example.com');
INSERT INTO profiles (id, email) VALUES ('00000000-0000-0000-0000-000000000001', 'a@example.com');
INSERT INTO projects (id, name, "ownerId") VALUES ('p', 'P', '00000000-0000-0000-0000-000000000001');
INSERT INTO data_records (id, "projectId", type, source, content) VALUES ('r', 'p', 'TASK', 'test', 'text');
INSERT INTO record_identities (digest, record_id) VALUES (gen_random_uuid(), 'r');
INSERT INTO likert_scores (id, "recordId", "userId", "realismScore", "qualityScore")
VALUES ('l', 'r', 'u', 1, 7);
INSERT INTO ingest_jobs (id, "projectId", type) VALUES ('i', 'p', 'TASK');
INSERT INTO analytics_jobs (id, "projectId") VALUES ('a', 'p');
"""
CHILDREN = ("data_records", "record_identities", "likert_scores", "ingest_jobs", "analytics_jobs")


def _count(session: Session, table: str) -> int:
    return int(session.scalar(text(f"SELECT count(*) FROM {table}")) or 0)  # noqa: S608 - names of our own


def test_a_deleted_project_takes_its_records_jobs_and_scores_along(session: Session) -> None:
    session.execute(text(INSERTS))
    assert [_count(session, table) for table in CHILDREN] == [1] * 5
    session.execute(text("DELETE FROM projects"))
    assert [_count(session, table) for table in CHILDREN] == [0] * 5


def test_truncated_records_take_their_identities_along(session: Session) -> None:
    session.execute(text(INSERTS))
    session.execute(text("TRUNCATE data_records CASCADE"))
    assert _count(session, "record_identities") == 0


def test_a_project_outlives_its_owner(session: Session) -> None:
    session.execute(text(INSERTS))
    session.execute(text("DELETE FROM auth.users"))
    assert _count(session, "profiles") == 0
    assert session.scalar(text('SELECT "ownerId" FROM projects')) is None
    assert _count(session, "data_records") == 1


def test_times_without_zone_are_utc_whatever_the_sessions_zone(session: Session) -> None:
    session.execute(text("SET TIME ZONE 'Asia/Kolkata'"))
    session.execute(text(INSERTS))
    is_utc = text("SELECT bool_and(\"createdAt\" = now() AT TIME ZONE 'utc') FROM data_records")
    assert session.scalar(is_utc) is True


def test_one_project_has_one_active_analysis(session: Session) -> None:
    session.execute(text(INSERTS))
    session.execute(
        text("""INSERT INTO analytics_jobs (id, "projectId", status) VALUES ('b', 'p', 'COMPLETED')""")
    )
    with pytest.raises(IntegrityError):
        session.execute(text("""INSERT INTO analytics_jobs (id, "projectId") VALUES ('c', 'p')"""))


def test_whatever_a_deleted_job_upload_or_record_takes_along_is_found_by_an_index(session: Session) -> None:
    unserved = text("""
        SELECT conrelid::regclass || '.' || conname FROM pg_constraint
        WHERE contype = 'f' AND NOT EXISTS (
            SELECT FROM pg_index WHERE indrelid = conrelid AND indpred IS NULL
            AND (indkey::int2[])[0 : cardinality(conkey) - 1] @> conkey
        ) AND confrelid = ANY(CAST(ARRAY[
            'data_records', 'ingest_jobs', 'analytics_jobs', 'uploads', 'work_jobs', 'work_stages'
        ] AS regclass[]))
    """)
    assert list(session.scalars(unserved)) == []
