"""Listing records: filters, orders, and pages that stay right while records come and go."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy.orm import Session

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
