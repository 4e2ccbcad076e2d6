"""Bonus windows: what a window may be, and finding and changing one (contract.md, section 6)."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.bonus import create_window, delete_window, get_window, list_windows, update_window
from pipeline.errors import InputError, NotFoundError
from schemas.reference import BonusWindow

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


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"end_time": START}, "after its start"),
        ({"end_time": START - TICK}, "after its start"),
        ({"target_task_count": 0}, "at least one tier 1 target"),
        ({"target_task_count": -1}, "negative"),
        ({"target_feedback_count_tier2": -1}, "negative"),
        ({"target_task_count_tier2": 1}, "at least that of tier 1"),
        ({"target_feedback_count": 3, "target_feedback_count_tier2": 2}, "at least that of tier 1"),
        ({"target_feedback_count_tier2": 2**31}, "give a smaller one"),
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


def test_times_without_zone_are_utc(session: Session) -> None:
    session.execute(text("SET TIME ZONE 'Asia/Kolkata'"))
    window = make_window(session, start_time=START.replace(tzinfo=None), end_time=END.replace(tzinfo=None))
    session.refresh(window)
    assert (window.start_time, window.end_time) == (START, END)
    update_window(session, window.id, end_time=INSIDE.replace(tzinfo=None))
    session.refresh(window)
    assert window.end_time == INSIDE


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


def test_an_exact_name_goes_before_the_beginning_of_an_id(session: Session) -> None:
    window = make_window(session)
    namesake = make_window(session, name=str(window.id)[:4])
    assert get_window(session, namesake.name).id == namesake.id


def test_nothing_is_not_the_beginning_of_an_id(session: Session) -> None:
    make_window(session)
    with pytest.raises(NotFoundError):
        get_window(session, "")


def test_a_name_of_two_windows_means_neither(session: Session) -> None:
    make_window(session)
    make_window(session)
    with pytest.raises(NotFoundError, match="more than one"):
        get_window(session, "week")
