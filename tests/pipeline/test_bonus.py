"""Bonus windows: what a window may be, and the arithmetic of its standings (contract.md, section 6)."""

import threading
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.bonus import (
    Standing,
    create_window,
    delete_window,
    get_window,
    list_windows,
    refresh_open_windows,
    refresh_window,
    show_standings,
    update_window,
)
from pipeline.database import transaction
from pipeline.errors import ConflictError, InputError, NotFoundError
from pipeline.ids import new_cuid
from schemas.reference import BonusWindow, DataRecord, Project

START = datetime(2026, 3, 16, tzinfo=UTC)
END = datetime(2026, 3, 22, 23, 59, 59, 999999, tzinfo=UTC)
INSIDE = datetime(2026, 3, 18, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)


def make_window(session: Session, **fields: Any) -> BonusWindow:  # noqa: ANN401 - any field of a window
    values = {
        "name": "week",
        "start_time": START,
        "end_time": END,
        "target_task_count": 2,
        "created_by": UUID(int=0),
    }
    return create_window(session, **(values | fields))


def add_records(session: Session, *records: dict[str, Any]) -> None:
    if session.get(Project, "p") is None:
        session.add(Project(id="p", name="P"))
        session.flush()
    for record in records:
        values = {"type": "TASK", "created_at": INSIDE, "created_by_email": "a@example.com"} | record
        values["created_at"] = values["created_at"].astimezone(UTC).replace(tzinfo=None)
        session.add(DataRecord(id=new_cuid(), project_id="p", source="test", content="text", **values))
    session.flush()


def standings(session: Session, window: BonusWindow, *, now: datetime = INSIDE) -> list[Standing]:
    refresh_window(session, window.id, now=now)
    return list(show_standings(session, window.id).rows)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"end_time": START}, "after its start"),
        ({"end_time": START - TICK}, "after its start"),
        ({"target_task_count": 0}, "at least one tier 1 target"),
        ({"target_task_count": -1}, "negative"),
        ({"target_feedback_count_tier2": -1}, "negative"),
        ({"target_task_count_tier2": 1}, "at least that of tier 1"),
        ({"name": "  "}, "name"),
    ],
)
def test_a_window_that_cannot_be_is_refused(session: Session, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        make_window(session, **fields)
    assert list_windows(session) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"target_task_count": 0, "target_feedback_count": 1},
        {"target_task_count_tier2": 2},
        {"target_task_count_tier2": 0, "target_feedback_count_tier2": 5},
        {"end_time": START + TICK},
    ],
)
def test_a_window_at_the_edge_of_the_rules_is_allowed(session: Session, fields: dict[str, Any]) -> None:
    assert make_window(session, **fields).id


def test_a_change_is_validated_on_the_window_as_it_will_be(session: Session) -> None:
    window = make_window(session, target_task_count_tier2=5)
    with pytest.raises(InputError, match="at least that of tier 1"):
        update_window(session, window.id, target_task_count=6)
    assert get_window(session, window.id).target_task_count == 2
    assert update_window(session, window.id, target_task_count=5, name="new").name == "new"
    with pytest.raises(InputError, match="no field colour"):
        update_window(session, window.id, colour="red")


def test_a_window_is_found_by_id_its_beginning_or_its_name(session: Session) -> None:
    window = make_window(session)
    for key in (window.id, str(window.id)[:8], "week"):
        assert get_window(session, key).id == window.id
    delete_window(session, window.id)
    with pytest.raises(NotFoundError):
        get_window(session, "week")


def test_bounds_are_inclusive_to_the_microsecond(session: Session) -> None:
    window = make_window(session)
    add_records(session, *({"created_at": at} for at in (START - TICK, START, END, END + TICK)))
    assert standings(session, window)[0].task_count == 2


def test_the_sessions_time_zone_changes_nothing(session: Session) -> None:
    window = make_window(session)
    add_records(session, *({"created_at": at} for at in (START - TICK, START, END, END + TICK)))
    session.execute(text("SET LOCAL TIME ZONE 'Asia/Kolkata'"))
    assert standings(session, window)[0].task_count == 2


def test_a_person_is_the_address_in_lower_case_and_trimmed_else_the_id(session: Session) -> None:
    window = make_window(session)
    add_records(
        session,
        {"created_by_email": " Émilie@Example.com "},
        {"created_by_email": "émilie@example.com", "created_by_id": "7"},
        {"created_by_email": " ", "created_by_id": "u1"},
        {"created_by_email": None, "created_by_id": None},
    )
    found = standings(session, window)
    assert {row.person: row.task_count for row in found} == {"émilie@example.com": 2, "u1": 1}
    total = show_standings(session, window.id)
    assert (total.task_count, total.feedback_count, total.person_count) == (4, 0, 2)


@pytest.mark.parametrize(
    ("targets", "tasks", "feedback", "tier", "progress"),
    [
        ((3, 0, 0, 0), 2, 0, 0, (66, None, None, None)),
        ((3, 0, 0, 0), 3, 0, 1, (100, None, None, None)),
        ((3, 0, 0, 0), 9, 0, 1, (100, None, None, None)),
        ((3, 2, 0, 0), 3, 1, 0, (100, 50, None, None)),
        ((3, 2, 0, 0), 3, 2, 1, (100, 100, None, None)),
        ((3, 0, 6, 0), 5, 0, 1, (100, None, 83, None)),
        ((3, 0, 6, 0), 6, 0, 2, (100, None, 100, None)),
        ((3, 0, 0, 2), 3, 1, 1, (100, None, None, 50)),
        ((3, 0, 0, 2), 2, 2, 0, (66, None, None, 100)),
        ((3, 0, 6, 2), 6, 2, 2, (100, None, 100, 100)),
        ((0, 7, 0, 0), 0, 2, 0, (None, 28, None, None)),
    ],
)
def test_tiers_and_progress_follow_the_contract(
    session: Session,
    targets: tuple[int, int, int, int],
    tasks: int,
    feedback: int,
    *,
    tier: int,
    progress: tuple[int | None, ...],
) -> None:
    names = (
        "target_task_count",
        "target_feedback_count",
        "target_task_count_tier2",
        "target_feedback_count_tier2",
    )
    window = make_window(session, **dict(zip(names, targets, strict=True)))
    add_records(session, *[{"type": "TASK"}] * tasks, *[{"type": "FEEDBACK"}] * feedback)
    (row,) = standings(session, window)
    assert (row.task_count, row.feedback_count, row.tier) == (tasks, feedback, tier)
    found = (row.task_progress, row.feedback_progress, row.task_progress_tier2, row.feedback_progress_tier2)
    assert found == progress


def test_counting_again_gives_the_same_and_forgets_who_vanished(session: Session) -> None:
    window = make_window(session)
    add_records(session, {}, {"created_by_email": "b@example.com"})
    assert standings(session, window) == standings(session, window)
    session.execute(text("DELETE FROM data_records WHERE \"createdByEmail\" = 'b@example.com'"))
    assert [row.person for row in standings(session, window)] == ["a@example.com"]


def test_a_window_is_frozen_one_day_after_its_end_and_then_stays(session: Session) -> None:
    window = make_window(session)
    add_records(session, {})
    refresh_open_windows(session, now=END + timedelta(days=1))
    assert show_standings(session, window.id).frozen_at is None
    add_records(session, {})
    later = END + timedelta(days=1) + TICK
    assert refresh_open_windows(session, now=later) == 1
    frozen = show_standings(session, window.id)
    assert (frozen.frozen_at, frozen.task_count) == (later, 2)
    add_records(session, {})
    assert refresh_open_windows(session, now=later + timedelta(days=1)) == 0
    assert not refresh_window(session, window.id, now=later)
    assert show_standings(session, window.id) == frozen
    with pytest.raises(ConflictError, match="frozen"):
        update_window(session, window.id, target_task_count=1)


def test_a_window_that_has_not_begun_is_not_counted(session: Session) -> None:
    window = make_window(session)
    assert refresh_open_windows(session, now=START - TICK) == 0
    assert show_standings(session, window.id).computed_at is None


def test_two_counts_at_once_give_one_result(session: Session) -> None:
    window = make_window(session)
    add_records(session, *[{}] * 50)
    session.commit()
    errors: list[Exception] = []

    def _count() -> None:
        try:
            for _ in range(5):
                with transaction() as own:
                    refresh_open_windows(own, now=INSIDE)
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to see it
            errors.append(error)

    threads = [threading.Thread(target=_count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [row.task_count for row in show_standings(session, window.id).rows] == [50]


PEOPLE = st.sampled_from([None, "", " ", "a@x.org", "A@x.org ", "b@x.org", "é@x.org", "É@X.org"])
MOMENTS = st.datetimes(min_value=datetime(2026, 3, 15), max_value=datetime(2026, 3, 24))  # noqa: DTZ001 - UTC as stored
RECORDS = st.lists(
    st.tuples(st.sampled_from(["TASK", "FEEDBACK"]), PEOPLE, st.sampled_from([None, " ", "u1"]), MOMENTS),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=RECORDS,
    targets=st.tuples(st.integers(1, 4), st.integers(0, 3)),
    zone=st.sampled_from(["UTC", "Asia/Tokyo"]),
)
def test_sql_counts_as_a_straightforward_recount_does(
    session: Session,
    records: list[tuple[str, str | None, str | None, datetime]],
    targets: tuple[int, int],
    zone: str,
) -> None:
    session.execute(text("DELETE FROM data_records"))
    window = make_window(session, target_task_count=targets[0], target_feedback_count=targets[1])
    add_records(
        session,
        *(
            {
                "type": kind,
                "created_by_email": email,
                "created_by_id": user,
                "created_at": at.replace(tzinfo=UTC),
            }
            for kind, email, user, at in records
        ),
    )
    session.execute(text(f"SET LOCAL TIME ZONE '{zone}'"))
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"TASK": 0, "FEEDBACK": 0})
    for kind, email, user, at in records:
        person = (email or "").strip().lower() or (user or "").strip()
        if person and START <= at.replace(tzinfo=UTC) <= END:
            counts[person][kind] += 1
    found = {row.person: (row.task_count, row.feedback_count, row.tier) for row in standings(session, window)}
    assert found == {
        person: (n["TASK"], n["FEEDBACK"], int(n["TASK"] >= targets[0] and n["FEEDBACK"] >= targets[1]))
        for person, n in counts.items()
    }
    session.rollback()
