"""Standings of bonus windows: their arithmetic and when they are counted (contract.md, section 6)."""

import threading
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.bonus import (
    Standing,
    create_window,
    refresh_open_windows,
    refresh_window,
    show_standings,
    update_window,
)
from pipeline.database import transaction
from pipeline.errors import ConflictError
from pipeline.ids import new_cuid
from schemas.reference import BonusWindow, DataRecord, Project

START = datetime(2026, 3, 16, tzinfo=UTC)
END = datetime(2026, 3, 22, 23, 59, 59, 999999, tzinfo=UTC)
INSIDE = datetime(2026, 3, 18, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
TARGET_NAMES = (
    "target_task_count",
    "target_feedback_count",
    "target_task_count_tier2",
    "target_feedback_count_tier2",
)


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
        values = {
            "id": new_cuid(),
            "type": "TASK",
            "created_at": INSIDE,
            "created_by_email": "a@example.com",
        } | record
        values["created_at"] = values["created_at"].astimezone(UTC).replace(tzinfo=None)
        session.add(DataRecord(project_id="p", source="test", content="text", **values))
    session.flush()


def standings(session: Session, window: BonusWindow, *, now: datetime = INSIDE) -> list[Standing]:
    refresh_window(session, window.id, now=now)
    return list(show_standings(session, window.id).rows)


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


def test_a_person_has_the_name_of_the_latest_record_with_one(session: Session) -> None:
    window = make_window(session)
    add_records(
        session,
        {"id": "r1", "created_by_name": " Anna New\t", "created_at": INSIDE + TICK},
        {"id": "r2", "created_by_name": "Zoe Old"},
        {"id": "r3", "created_by_name": "\t", "created_at": INSIDE + 2 * TICK},
        {"id": "r4", "created_by_email": "b@example.com"},
    )
    names = {row.person: row.name for row in standings(session, window)}
    assert names == {"a@example.com": "Anna New", "b@example.com": None}


def test_of_two_names_at_the_same_moment_the_later_id_decides(session: Session) -> None:
    window = make_window(session)
    add_records(session, {"id": "r2", "created_by_name": "Anna"}, {"id": "r1", "created_by_name": "Zoe"})
    assert standings(session, window)[0].name == "Anna"


def test_records_of_all_projects_count(session: Session) -> None:
    window = make_window(session)
    add_records(session, {}, {})
    session.add(Project(id="q", name="Q"))
    session.flush()
    session.execute(
        text("UPDATE data_records SET \"projectId\" = 'q' WHERE id = (SELECT min(id) FROM data_records)")
    )
    assert standings(session, window)[0].task_count == 2


def test_windows_that_overlap_are_counted_together_and_each_by_itself(session: Session) -> None:
    week = make_window(session)
    half = make_window(session, name="half", end_time=INSIDE - TICK, target_task_count=1)
    add_records(session, {}, {"created_at": START})
    assert refresh_open_windows(session, now=INSIDE) == 2
    (in_week,), (in_half,) = show_standings(session, week.id).rows, show_standings(session, half.id).rows
    assert (in_week.task_count, in_week.tier) == (2, 1)
    assert (in_half.task_count, in_half.tier) == (1, 1)


def test_the_best_tier_and_the_most_records_come_first(session: Session) -> None:
    window = make_window(session, target_task_count_tier2=3)
    for person, kinds in {"d": "TF", "c": "TTT", "b": "T", "a": "TT", "e": "TF", "f": "TTTF"}.items():
        types = ({"type": "TASK" if kind == "T" else "FEEDBACK"} for kind in kinds)
        add_records(session, *({"created_by_email": person, **kind} for kind in types))
    assert [row.person for row in standings(session, window)] == ["f", "c", "a", "d", "e", "b"]


def test_the_largest_targets_can_be_counted_against(session: Session) -> None:
    largest = 2**31 - 1
    window = make_window(session, target_task_count_tier2=largest, target_feedback_count_tier2=largest)
    add_records(session, {}, {})
    (row,) = standings(session, window)
    assert (row.tier, row.task_progress_tier2, row.feedback_progress_tier2) == (1, 0, 0)


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
    window = make_window(session, **dict(zip(TARGET_NAMES, targets, strict=True)))
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


def test_a_window_that_was_never_counted_is_counted_once_when_it_is_frozen(session: Session) -> None:
    window = make_window(session)
    add_records(session, {})
    assert refresh_open_windows(session, now=END + timedelta(days=30)) == 1
    frozen = show_standings(session, window.id)
    assert (frozen.frozen_at, frozen.task_count) == (END + timedelta(days=30), 1)


def test_the_day_until_a_window_is_frozen_has_24_hours_in_every_time_zone(session: Session) -> None:
    end = datetime(2026, 3, 7, 20, tzinfo=UTC)  # the night after it is an hour short in New York
    window = make_window(session, start_time=end - timedelta(days=1), end_time=end)
    session.execute(text("SET TIME ZONE 'America/New_York'"))
    session.expire_all()
    refresh_open_windows(session, now=end + timedelta(hours=23, minutes=30))
    assert show_standings(session, window.id).frozen_at is None


def test_a_window_that_was_prolonged_elsewhere_is_not_frozen(session: Session) -> None:
    window = make_window(session)
    session.commit()
    with transaction() as own:
        update_window(own, window.id, end_time=END + timedelta(days=9))
    refresh_open_windows(session, now=END + timedelta(days=2))
    assert show_standings(session, window.id).frozen_at is None


def test_other_bounds_make_the_standings_void(session: Session) -> None:
    window = make_window(session)
    add_records(session, {})
    refresh_window(session, window.id, now=INSIDE)
    update_window(session, window.id, start_time=END + TICK, end_time=END + timedelta(days=6))
    refresh_open_windows(session, now=INSIDE)
    void = show_standings(session, window.id)
    assert (void.task_count, void.rows, void.computed_at) == (0, (), None)


def test_a_window_that_has_not_begun_is_not_counted(session: Session) -> None:
    window = make_window(session)
    assert refresh_open_windows(session, now=START - TICK) == 0
    assert not refresh_window(session, window.id, now=START - TICK)
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


def test_a_count_that_waited_for_the_one_that_froze_changes_nothing(
    session: Session, wait: Callable[..., None]
) -> None:
    window = make_window(session)
    add_records(session, {})
    session.commit()
    later = END + timedelta(days=2)
    refresh_open_windows(session, now=later)
    counted: list[int] = []

    def _count() -> None:
        with transaction() as own:
            add_records(own, {})
            counted.append(refresh_open_windows(own, now=later))

    thread = threading.Thread(target=_count)
    thread.start()
    with transaction() as watcher:
        wait(lambda: watcher.scalar(text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")))
    session.commit()
    thread.join()
    assert counted == [0]
    assert show_standings(session, window.id).task_count == 1


PEOPLE = st.sampled_from([None, "", " ", "a@x.org", "A@x.org ", "\tb@x.org", "é@x.org", "É@X.org"])
NAMES = st.sampled_from([None, " ", "Ann", " Bob", "Zoe"])
MOMENTS = st.one_of(
    st.sampled_from([START - TICK, START, END, END + TICK]),
    st.datetimes(datetime(2026, 3, 15), datetime(2026, 3, 24), timezones=st.just(UTC)),  # noqa: DTZ001 - zone aside
)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["TASK", "FEEDBACK"]),
            "created_by_email": PEOPLE,
            "created_by_id": st.sampled_from([None, " ", "u1"]),
            "created_by_name": NAMES,
            "created_at": MOMENTS,
        }
    ),
    max_size=25,
)
# Tier 1 and what tier 2 asks for beyond it; None: nothing.
TARGETS = st.tuples(st.integers(0, 4), st.one_of(st.none(), st.integers(0, 3)))


def _person(record: dict[str, Any]) -> str:
    return (record["created_by_email"] or "").strip().lower() or (record["created_by_id"] or "").strip()


def _latest_name(records: list[dict[str, Any]]) -> str | None:
    # Of records of the same moment the later id counts, and ids are given in order here.
    in_order = sorted(records, key=lambda record: record["created_at"])
    names = [name for record in in_order if (name := (record["created_by_name"] or "").strip())]
    return names[-1] if names else None


def _progress(count: int, target: int) -> int | None:
    return min(100, 100 * count // target) if target else None


def _recount(records: list[dict[str, Any]], targets: tuple[int, int, int, int]) -> dict[str, Standing]:
    inside: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if _person(record) and START <= record["created_at"] <= END:
            inside[_person(record)].append(record)
    found = {}
    for person, own in inside.items():
        tasks = sum(record["type"] == "TASK" for record in own)
        counts = (tasks, len(own) - tasks, tasks, len(own) - tasks)
        met = [count >= target for count, target in zip(counts, targets, strict=True)]
        tier = 0 if not all(met[:2]) else 2 if any(targets[2:]) and all(met[2:]) else 1
        progress = map(_progress, counts, targets)
        found[person] = Standing(person, _latest_name(own), *counts[:2], *progress, tier)
    return found


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records=RECORDS, task=TARGETS, feedback=TARGETS, zone=st.sampled_from(["UTC", "Asia/Kolkata"]))
def test_sql_counts_as_a_straightforward_recount_does(
    session: Session,
    records: list[dict[str, Any]],
    task: tuple[int, int | None],
    feedback: tuple[int, int | None],
    zone: str,
) -> None:
    assume(task[0] or feedback[0])
    session.rollback()
    tier2 = [0 if more is None else first + more for first, more in (task, feedback)]
    targets = (task[0], feedback[0], tier2[0], tier2[1])
    window = make_window(session, **dict(zip(TARGET_NAMES, targets, strict=True)))
    add_records(session, *({"id": f"{number:04}", **record} for number, record in enumerate(records)))
    session.execute(text(f"SET LOCAL TIME ZONE '{zone}'"))
    assert {row.person: row for row in standings(session, window)} == _recount(records, targets)
    total = show_standings(session, window.id)
    inside = [record["type"] for record in records if START <= record["created_at"] <= END]
    assert (total.task_count, total.feedback_count) == (inside.count("TASK"), inside.count("FEEDBACK"))
    assert total.person_count == len(total.rows)
