"""Identities: claimed by loads and by records of other clients, whoever comes first, at any time."""

import threading
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import get_engine, make_engine, transaction
from pipeline.ids import new_cuid
from pipeline.ingest import load
from pipeline.ingest.identity import digest_identity
from pipeline.ingest.rows import Record, RowOptions, RowReader
from pipeline.ingest.submit import Submission
from pipeline.jobviews import JobView, view_job
from pipeline.migrations import downgrade, upgrade
from pipeline.projects import ProjectRef
from pipeline.runner import run_chunk
from pipeline.servers import endpoints
from schemas.enums import RecordType

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]

HEADER = "task_id,prompt\n"
TEXT = "a prompt that is long enough"


def batch(*identities: str) -> str:
    return HEADER + "".join(f"{identity},{TEXT}\n" for identity in identities)


def insert(session: Session, project_id: str, metadata: object, *, kind: str = "TASK") -> str:
    """Insert a record as another client of the database does."""
    record_id = new_cuid()
    session.execute(
        text("""
            INSERT INTO data_records (id, "projectId", type, source, content, metadata)
            VALUES (:id, :project, CAST(:kind AS "RecordType"), 'app', 'content', CAST(:metadata AS jsonb))
        """),
        {"id": record_id, "project": project_id, "kind": kind, "metadata": orjson.dumps(metadata).decode()},
    )
    return record_id


def claimed(session: Session) -> dict[UUID, str]:
    rows = session.execute(text("SELECT digest, record_id FROM record_identities"))
    return {row.digest: row.record_id for row in rows}


def digest(project_id: str, identity: str, kind: RecordType = RecordType.TASK) -> UUID:
    return UUID(bytes=digest_identity(project_id, kind, identity))


def view(job: Submission) -> JobView:
    with transaction() as session:
        return view_job(session, job.job_id)


# --- the same identity in SQL and in Python ---

IDENTITY_NAMES = ["task_id", "Task ID", "task-id", " TASK_ID ", "id", "ID", "uuid", "record_id", "Record-Id"]
OTHER_NAMES = ["task_key", "feedback_id", "Feedback Id", "other", "id_", "prompt\u2003", "\u00a0uuid\x1f"]
names = st.sampled_from(IDENTITY_NAMES + OTHER_NAMES)
values = st.one_of(
    st.none(),
    st.sampled_from(["", " ", "\u2003", "x", " x ", "\u00a0Ünï\u2028", "\x1c7\x85", "t-1", "\t", "0"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.dictionaries(names, values, max_size=5), kind=st.sampled_from(RecordType))
def test_the_database_finds_the_identity_that_the_row_rules_find(
    session: Session, row: dict[str, str | None], kind: RecordType
) -> None:
    normalized = [name.strip().lower().replace(" ", "_").replace("-", "_") for name in row]
    if len(set(normalized)) < len(normalized):
        return  # a JSON object has no leftmost column
    header = ["content", *row]
    reader = RowReader(header, RowOptions(kind, mapping={"content": "content"}))
    record = reader.read_values([TEXT, *(value and value.strip() for value in row.values())])
    assert isinstance(record, Record)
    expected = record.identity and digest("p", record.identity, record.type)

    found = session.scalar(
        text("SELECT opspipe_identity('p', CAST(:kind AS \"RecordType\"), CAST(:metadata AS jsonb))"),
        {"kind": record.type, "metadata": orjson.dumps({"content": TEXT} | row).decode()},
    )
    assert found == expected


@pytest.mark.parametrize("metadata", [None, [], "text", 5, {}, {"id": None}, {"id": ""}])
def test_metadata_without_an_identity_claims_none(
    session: Session, project: ProjectRef, metadata: object
) -> None:
    insert(session, project.id, metadata)
    assert claimed(session) == {}


def test_a_number_is_an_identity_too(session: Session, project: ProjectRef) -> None:
    record_id = insert(session, project.id, {"id": 7})
    assert claimed(session) == {digest(project.id, "7"): record_id}


# --- records of other clients ---


def test_a_record_of_another_client_counts_as_stored(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll
) -> None:
    insert(session, project.id, {"Task ID": " t1 "})
    session.commit()
    job = submit(batch("t1", "t2"))
    run_all(job)
    assert (view(job).saved_count, view(job).skipped_details) == (1, {"Duplicate ID": 1})


def test_another_client_may_write_the_same_identity_again(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll
) -> None:
    run_all(submit(batch("t1")))
    before = claimed(session)
    second = insert(session, project.id, {"task_id": "t1"})
    assert claimed(session) == before
    session.execute(text("DELETE FROM data_records WHERE id = :id"), {"id": second})
    assert claimed(session) == before


def test_a_changed_identity_claims_the_new_one_and_frees_the_old_one(
    session: Session, project: ProjectRef
) -> None:
    record_id = insert(session, project.id, {"id": "old"})
    session.execute(text("""UPDATE data_records SET metadata = '{"id": "new"}'"""))
    assert claimed(session) == {digest(project.id, "new"): record_id}
    session.execute(text("UPDATE data_records SET type = 'FEEDBACK'"))
    assert claimed(session) == {digest(project.id, "new", RecordType.FEEDBACK): record_id}
    session.execute(text("UPDATE data_records SET content = 'other', metadata = metadata"))
    assert claimed(session) == {digest(project.id, "new", RecordType.FEEDBACK): record_id}


def test_an_identity_from_a_mapped_column_outlives_a_change_of_the_metadata(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll
) -> None:
    run_all(submit("key,prompt\nk1,a prompt that is long enough\n", mapping={"id": "key"}))
    session.execute(text("""UPDATE data_records SET metadata = metadata || '{"note": "x"}'"""))
    assert set(claimed(session)) == {digest(project.id, "k1")}


def test_a_load_waits_for_a_record_that_is_being_written(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll
) -> None:
    job = submit(batch("t1", "t2"))
    insert(session, project.id, {"id": "t1"})  # not committed yet
    worker = threading.Thread(target=run_all, args=[job])
    worker.start()
    wait_for_lock()
    session.commit()
    worker.join()
    assert (view(job).saved_count, view(job).skipped_details) == (1, {"Duplicate ID": 1})
    assert session.scalar(text("SELECT count(*) FROM data_records")) == 2


def test_a_record_that_was_taken_back_stands_in_nobodys_way(
    session: Session, project: ProjectRef, submit: Submit, run_all: RunAll
) -> None:
    job = submit(batch("t1"))
    insert(session, project.id, {"id": "t1"})
    worker = threading.Thread(target=run_all, args=[job])
    worker.start()
    wait_for_lock()
    session.rollback()
    worker.join()
    assert view(job).saved_count == 1


def test_a_record_that_comes_while_rows_are_copied_keeps_its_identity(
    session: Session,
    project: ProjectRef,
    submit: Submit,
    run_all: RunAll,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copy = load._copy

    def copy_late(*arguments: Any) -> None:  # noqa: ANN401 - handed on as they are
        copy(*arguments)
        insert(session, project.id, {"id": "t2"})
        session.commit()

    monkeypatch.setattr(load, "_copy", copy_late)
    job = submit(batch("t1", "t2", "t3"))
    run_all(job)
    assert (view(job).saved_count, view(job).skipped_details) == (2, {"Duplicate ID": 1})
    stored = session.scalars(text("SELECT coalesce(metadata->>'task_id', 'theirs') FROM data_records"))
    assert sorted(stored) == ["t1", "t3", "theirs"]
    assert len(claimed(session)) == 3


def test_a_deadlock_is_retried_unseen(
    session: Session, project: ProjectRef, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runner._delay", lambda _attempt: 0.0)
    claim = load._claim

    def claim_patiently(opened: Session, *arguments: Any) -> set[bytes]:  # noqa: ANN401 - handed on as they are
        # PostgreSQL ends whoever finds the deadlock: it is to be the load, after the other has come into it.
        opened.execute(text("SET LOCAL deadlock_timeout = '4s'"))
        return claim(opened, *arguments)

    monkeypatch.setattr(load, "_claim", claim_patiently)
    session.execute(text("SET LOCAL deadlock_timeout = '60s'"))
    first, second = sorted(("t1", "t2"), key=lambda name: digest(project.id, name))
    job = submit(batch("t1", "t2"))
    (chunk,) = run_chunk(job.plan)
    insert(session, project.id, {"id": second})
    worker = threading.Thread(target=run_chunk, args=[chunk])
    worker.start()
    wait_for_lock()
    # Against the order of the digests: the load holds this one and waits for the other.
    insert(session, project.id, {"id": first})
    session.commit()
    worker.join()
    assert "deadlock" in str(session.scalar(text("SELECT error FROM work_chunks WHERE number = 1")))
    assert view(job).status == "PROCESSING"
    run_chunk(chunk)
    assert (view(job).status, view(job).saved_count, view(job).skipped_count) == ("COMPLETED", 0, 2)
    assert session.scalar(text("SELECT attempts FROM work_chunks WHERE number = 1")) == 1


def wait_for_lock() -> None:
    """Wait until somebody waits for another transaction's end."""
    question = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        with get_engine().connect() as connection:
            if connection.scalar(text(question)):
                return
        time.sleep(0.01)
    pytest.fail("nobody waits for a lock")


# --- cost and migration ---


@pytest.mark.parametrize("question", [load._FIND_CLAIMED, load._CLAIM], ids=["find", "claim"])
def test_looking_identities_up_reads_no_table_from_end_to_end(session: Session, question: object) -> None:
    session.execute(
        text("""
            INSERT INTO record_identities (digest, record_id)
            SELECT gen_random_uuid(), number FROM generate_series(1, 50000) AS number
        """)
    )
    session.execute(text("ANALYZE record_identities"))
    asked = {"digests": "{" + ",".join(str(UUID(int=number)) for number in range(50)) + "}", "ids": "{}"}
    plan = "\n".join(session.scalars(text(f"EXPLAIN {question}"), asked))
    assert "Seq Scan on record_identities" not in plan


def test_records_that_were_there_before_get_their_identities(database_url: str, servers: None) -> None:  # noqa: ARG001 - it must run
    engine = make_engine(endpoints().database_url)
    try:
        downgrade(engine, "0001")
        with Session(engine) as session, session.begin():
            session.execute(text("INSERT INTO projects (id, name) VALUES ('old', 'old')"))
            insert(session, "old", {"id": "x", "n": 1})
            insert(session, "old", {"id": "x", "n": 2})
            insert(session, "old", {})
            assert claimed(session) == {}
        upgrade(engine)
        with Session(engine) as session, session.begin():
            earliest = session.scalar(text("SELECT min(id) FROM data_records WHERE metadata->>'n' = '1'"))
            assert claimed(session) == {digest("old", "x"): earliest}
            session.execute(text("DELETE FROM projects WHERE id = 'old'"))
            assert claimed(session) == {}
    finally:
        upgrade(engine)
        engine.dispose()
