"""Listing records: filters, orders, and pages that stay right while records come and go."""

import base64
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import product
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from pipeline.database import get_engine, transaction
from pipeline.errors import InputError
from pipeline.ids import new_cuid
from pipeline.projects import ProjectRef, ensure_project
from pipeline.records import RecordFilter, RecordView, list_records
from schemas.enums import RecordCategory, RecordOrder, RecordType
from schemas.own import Alignment
from schemas.reference import DataRecord

START = datetime(2026, 1, 1)  # noqa: DTZ001 - the column's times are UTC without saying so


def add(
    session: Session,
    project_id: str,
    content: str,
    *,
    day: int = 0,
    score: int | None = None,
    **others: object,
) -> str:
    values = {"type": RecordType.TASK, "source": "test", "created_at": START + timedelta(days=day)} | others
    record = DataRecord(id=new_cuid(), project_id=project_id, content=content, **values)
    session.add(record)
    session.flush()
    if score is not None:
        record.alignment_analysis = f"It has {score}."
        session.add(
            Alignment(
                record_id=record.id,
                score=score,
                report={},
                provider="lmstudio",
                llm_model="judge",
                prompt_version="1",
                guidelines_sha256="0" * 64,
            )
        )
    session.commit()
    return record.id


def pages(session: Session, wanted: RecordFilter, *, limit: int, **order: object) -> list[list[RecordView]]:
    found, cursor = [], None
    while True:
        page = list_records(session, wanted, limit=limit, cursor=cursor, **order)  # type: ignore[arg-type]
        found.append(list(page.records))
        cursor = page.next_cursor
        if cursor is None:
            return found


def contents(found: list[list[RecordView]]) -> list[list[str]]:
    return [[record.content for record in page] for page in found]


@pytest.mark.parametrize("is_ascending", [True, False])
def test_pages_by_score_hold_every_scored_record_once_in_order(
    session: Session, project: ProjectRef, *, is_ascending: bool
) -> None:
    expected = []
    for number in range(11):
        score = (70, 20, 70, 0, 100)[number % 5]
        expected.append((score, add(session, project.id, f"record {number}", score=score)))
    add(session, project.id, "not analyzed")
    found = pages(
        session,
        RecordFilter(project.id),
        limit=4,
        sort_by=RecordOrder.ALIGNMENT_SCORE,
        is_ascending=is_ascending,
    )
    assert [len(page) for page in found] == [4, 4, 3]
    listed = [(record.alignment_score, record.id) for page in found for record in page]
    assert listed == sorted(expected, reverse=not is_ascending)
    assert {(record.alignment_model, record.alignment_provider) for page in found for record in page} == {
        ("judge", "lmstudio")
    }


def test_the_newest_come_first_and_a_full_last_page_is_the_last(
    session: Session, project: ProjectRef
) -> None:
    for day in (2, 0, 3, 1):
        add(session, project.id, f"day {day}", day=day)
    found = pages(session, RecordFilter(project.id), limit=2)
    assert contents(found) == [["day 3", "day 2"], ["day 1", "day 0"]]


def test_records_that_come_between_two_pages_double_and_hide_none(
    session: Session, project: ProjectRef
) -> None:
    for day in range(4):
        add(session, project.id, f"day {day}", day=day)
    first = list_records(session, RecordFilter(project.id), limit=2)
    add(session, project.id, "newer than all", day=9)
    add(session, project.id, "behind the first page", day=1)
    rest = list_records(session, RecordFilter(project.id), limit=9, cursor=first.next_cursor)
    assert sorted(record.content for record in rest.records) == ["behind the first page", "day 0", "day 1"]


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "20000-01-01", "4000-01-01 BC"])
@pytest.mark.parametrize("is_ascending", [True, False])
def test_times_that_python_does_not_hold_are_at_an_end_of_the_list_and_hide_none(
    session: Session, project: ProjectRef, moment: str, *, is_ascending: bool
) -> None:
    for day in range(4):
        add(session, project.id, f"day {day}", day=day)
    strange = 'UPDATE data_records SET "createdAt" = :moment, "updatedAt" = :moment WHERE content > :content'
    session.execute(text(strange), {"moment": moment, "content": "day 0"})
    session.commit()
    found = pages(session, RecordFilter(project.id), limit=2, is_ascending=is_ascending)
    listed = [entry for page in contents(found) for entry in page]
    assert sorted(listed) == ["day 0", "day 1", "day 2", "day 3"]
    is_early = moment.startswith("-") or moment.endswith("BC")
    assert listed[-1 if is_early is is_ascending else 0] == "day 0"


def test_filters_narrow_the_list(session: Session, project: ProjectRef) -> None:
    other = ensure_project(session, "other").id
    add(session, project.id, "a 100% cat", category=RecordCategory.TOP_10)
    add(session, project.id, "a 1000 dogs", type=RecordType.FEEDBACK, ingest_job_id="job")
    add(session, project.id, "an analyzed Cat", score=5)
    add(session, other, "a cat elsewhere")

    def listed(**wanted: object) -> set[str]:
        found = list_records(session, RecordFilter(project.id, **wanted))  # type: ignore[arg-type]
        return {record.content for record in found.records}

    assert listed() == {"a 100% cat", "a 1000 dogs", "an analyzed Cat"}
    assert listed(type=RecordType.FEEDBACK) == {"a 1000 dogs"}
    assert listed(category=RecordCategory.TOP_10) == {"a 100% cat"}
    assert listed(ingest_job_id="job") == {"a 1000 dogs"}
    assert listed(search="CAT") == {"a 100% cat", "an analyzed Cat"}
    assert listed(search="100%") == {"a 100% cat"}
    assert listed(has_alignment=True) == {"an analyzed Cat"}
    assert listed(has_alignment=False) == {"a 100% cat", "a 1000 dogs"}
    assert len(list_records(session, RecordFilter()).records) == 4


def test_embeddings_come_only_where_they_are_asked_for(session: Session, project: ProjectRef) -> None:
    add(session, project.id, "pending")
    add(session, project.id, "embedded", embedding=[0.5, 0.25], day=1)
    without = list_records(session, RecordFilter(project.id)).records
    assert [record.embedding for record in without] == [None, None]
    asked = list_records(session, RecordFilter(project.id), with_embedding=True).records
    assert [record.embedding for record in asked] == [[0.5, 0.25], []]


def test_a_cursor_that_does_not_go_with_the_question_is_refused(
    session: Session, project: ProjectRef
) -> None:
    for day in range(3):
        add(session, project.id, f"day {day}", day=day)
    cursor = list_records(session, RecordFilter(project.id), limit=1).next_cursor
    with pytest.raises(InputError, match="another order"):
        list_records(session, RecordFilter(project.id), cursor=cursor, is_ascending=True)
    for broken in ("nonsense", "", "W10=", "WzFd", "é"):
        with pytest.raises(InputError, match="the cursor is none"):
            list_records(session, RecordFilter(project.id), cursor=broken)


@pytest.mark.parametrize("place", ["no time", "2026-13-01", "infinityy", "1e9", "", "\0", None, {}, 5])
@pytest.mark.parametrize("order", list(RecordOrder))
def test_a_forged_cursor_is_refused_and_leaves_the_transaction_as_it_was(
    session: Session, project: ProjectRef, place: object, order: RecordOrder
) -> None:
    add(session, project.id, "one", score=1)
    forged = base64.urlsafe_b64encode(json.dumps([order, False, place, "x"]).encode()).decode()
    if (order, place) != (RecordOrder.ALIGNMENT_SCORE, 5):
        with pytest.raises(InputError, match="the cursor is none"):
            list_records(session, RecordFilter(), sort_by=order, cursor=forged)
    assert len(list_records(session, RecordFilter()).records) == 1


@pytest.mark.parametrize("sort_by", list(RecordOrder))
@pytest.mark.parametrize("is_ascending", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_there_all_the_time_comes_exactly_once_while_others_come_and_go(
    session: Session, project: ProjectRef, sort_by: RecordOrder, seed: int, *, is_ascending: bool
) -> None:
    chance = random.Random(seed)

    def add_some(count: int) -> set[str]:
        # Few days and scores, so that most places are shared by several records.
        return {
            add(session, project.id, "x", day=chance.randrange(4), score=chance.randrange(4))
            for _ in range(count)
        }

    lasting, passing = add_some(30), add_some(20)
    listed: list[str] = []
    cursor, order = None, {"sort_by": sort_by, "is_ascending": is_ascending}
    while True:
        page = list_records(
            session,
            RecordFilter(project.id),
            limit=chance.randrange(1, 7),
            cursor=cursor,
            **order,  # type: ignore[arg-type]
        )
        listed += [record.id for record in page.records]
        cursor = page.next_cursor
        if cursor is None:
            break
        with transaction() as other:
            # Also the very record that the page ended with.
            gone = {*chance.sample(sorted(passing), min(2, len(passing))), *({listed[-1]} & passing)}
            other.execute(text("DELETE FROM data_records WHERE id = ANY(:ids)"), {"ids": list(gone)})
        passing = (passing - gone) | add_some(2)
        assert len(listed) < 1_000
    assert len(listed) == len(set(listed))
    assert lasting <= set(listed)


# More than these, of 120,000, have to come in order; so few may be sorted.
_SORTED_ROWS = 5_000

_MANY = """
INSERT INTO data_records (id, "projectId", type, category, source, content, "alignmentAnalysis",
        "ingestJobId", "createdAt")
    SELECT 'c' || lpad(n::text, 24, '0'),
        CASE WHEN n % 10 < 6 THEN :large WHEN n % 10 < 9 THEN :other ELSE :small END,
        (CASE WHEN n % 3 = 0 THEN 'FEEDBACK' ELSE 'TASK' END)::"RecordType",
        (CASE n % 10 WHEN 0 THEN 'TOP_10' WHEN 1 THEN 'BOTTOM_10' END)::"RecordCategory",
        'test', 'write the story number ' || n || ' ' || repeat(md5(n::text), 12),
        CASE WHEN n % 2 = 0 THEN 'It fits.' END,
        'job' || n / 40000, timestamp '2026-01-01' + n * interval '1 second'
    FROM generate_series(1, 120000) AS n;
INSERT INTO alignments (record_id, score, report, provider, llm_model, prompt_version, guidelines_sha256)
    SELECT id, hashtext(id) % 50 + 50, '{}', 'p', 'm', '1', '' FROM data_records
    WHERE "alignmentAnalysis" IS NOT NULL;
"""


class _AskedError(Exception):
    """What a listing asks of the database, in the place of an answer."""


@contextmanager
def _unanswered() -> Iterator[list[tuple[str, Any]]]:
    """Let nobody answer listings in this block; notes what is set for them."""
    noted: list[tuple[str, Any]] = []

    def note(_1: Any, _2: Any, statement: str, parameters: Any, *_3: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
        if "FROM data_records" in statement:
            raise _AskedError(statement, parameters)
        noted.append((statement, parameters))

    event.listen(get_engine(), "before_cursor_execute", note)
    try:
        yield noted
    finally:
        event.remove(get_engine(), "before_cursor_execute", note)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from _nodes(part)


def _plan(session: Session, wanted: RecordFilter, **options: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - see list_records
    """Explain what a listing asks."""
    with _unanswered() as noted, pytest.raises(_AskedError) as asked:
        list_records(session, wanted, **options)
    statement, parameters = asked.value.args
    settings = next(entry for entry in noted if "set_config" in entry[0])
    with session.begin_nested() as savepoint:
        connection = session.connection()
        connection.exec_driver_sql(*settings)
        (plans,) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalars()
        savepoint.rollback()
    return list(_nodes(plans[0]["Plan"]))


def _complaints(session: Session, wanted: RecordFilter, **options: Any) -> list[str]:  # noqa: ANN401 - see list_records
    """Tell what in the plans of a listing takes the longer the more records there are."""
    found = []
    for node in _plan(session, wanted, **options):
        kind, below = node["Node Type"], node.get("Plans", [{}])[0].get("Plan Rows", 0)
        if kind == "Seq Scan" or ("Sort" in kind and below > _SORTED_ROWS):
            found.append(f"{kind} of {node.get('Relation Name', below)}: {wanted} {options}")
    return found


def test_every_filter_and_order_goes_by_an_index(session: Session, project: ProjectRef) -> None:
    other, small = ensure_project(session, "other").id, ensure_project(session, "small").id
    for statement in _MANY.split(";")[:2]:
        session.execute(text(statement), {"large": project.id, "other": other, "small": small})
    session.commit()
    session.execute(text("ANALYZE data_records, alignments"))
    cursors = {
        (sort_by, way): list_records(
            session, RecordFilter(), sort_by=sort_by, is_ascending=way, limit=50
        ).next_cursor
        for sort_by, way in product(RecordOrder, (True, False))
    }
    filters = [
        RecordFilter(*values)
        for values in product(
            (None, project.id, small),
            (None, RecordType.TASK),
            (None, RecordCategory.TOP_10),
            (None, "story", "nowhere at all"),
            (None, True, False),
            (None, "job1"),
        )
    ]
    complaints = [
        complaint
        for wanted, (order, cursor) in product(filters, cursors.items())
        for given in (None, cursor)
        for complaint in _complaints(
            session, wanted, sort_by=order[0], is_ascending=order[1], cursor=given, limit=50
        )
    ]
    assert complaints == []
    assert len(filters) * len(cursors) * 2 == 1_728
    # Without them some listing would take the longer the more records there are.
    for index in ("idx_record_created", "idx_alignments_score"):
        with session.begin_nested() as savepoint:
            session.execute(text(f"DROP INDEX {index}"))
            assert any(
                _complaints(session, wanted, sort_by=order, limit=50)
                for wanted, order in product(filters, RecordOrder)
            ), index
            savepoint.rollback()
    # Without this one a project's would take the longer the more records others have.
    plan = _plan(session, RecordFilter(small), sort_by=RecordOrder.CREATED_AT, limit=50)
    assert "idx_record_project_created" in {node.get("Index Name") for node in plan}


def test_a_search_that_takes_too_long_is_ended_and_says_how_to_ask(
    session: Session, project: ProjectRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.records._SECONDS", 0.001)
    session.execute(
        text("""
            INSERT INTO data_records (id, "projectId", type, source, content)
            SELECT 'c' || n, :project, 'TASK', 'test', repeat(md5(n::text), 300)
            FROM generate_series(1, 2000) AS n
        """),
        {"project": project.id},
    )
    before = session.scalar(text("SHOW statement_timeout"))
    with pytest.raises(InputError, match=r"within 0\.001 s: search for what is more frequent, or in fewer"):
        list_records(session, RecordFilter(project.id, search="nowhere"))
    # The transaction goes on as it was.
    assert session.scalar(text("SELECT count(*) FROM data_records")) == 2000
    assert session.scalar(text("SHOW statement_timeout")) == before
    assert session.scalar(text("SHOW enable_seqscan")) == "on"
