"""Standings: counting a window's records by person, in one statement for all open windows."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import ARRAY, Select, Uuid, bindparam, select, text
from sqlalchemy.orm import Session

from pipeline.errors import NotFoundError
from pipeline.people import PERSON, trimmed
from schemas.own import BonusStanding, BonusTotal
from schemas.reference import BonusWindow

# A window is counted until so long after its end, and then frozen.
FREEZE_AFTER = timedelta(days=1)

_IDS = bindparam("ids", type_=ARRAY(Uuid))


# createdAt has no zone and is UTC: the window's bounds are taken to UTC, the session's zone is left out.
# A record that is nobody's is counted in the totals alone.
# A person's name is the one of the latest record that has any.
_COUNTED = f"""
    counted AS (
        SELECT
            bonus.id AS window_id,
            {PERSON} AS person,
            (array_agg({trimmed("createdByName")} ORDER BY record."createdAt" DESC, record.id DESC)
                FILTER (WHERE {trimmed("createdByName")} IS NOT NULL))[1] AS name,
            count(*) FILTER (WHERE record.type = 'TASK') AS tasks,
            count(*) FILTER (WHERE record.type = 'FEEDBACK') AS feedback
        FROM bonus_windows AS bonus
        JOIN data_records AS record
          ON record."createdAt" BETWEEN (bonus."startTime" AT TIME ZONE 'UTC')
                                    AND (bonus."endTime" AT TIME ZONE 'UTC')
        WHERE bonus.id = ANY(:ids)
        GROUP BY bonus.id, person
    )
"""  # noqa: S608 - put together from constants

_FORGET = text("DELETE FROM bonus_standings WHERE window_id = ANY(:ids)").bindparams(_IDS)

# A target of 0 asks for nothing: it is always met and has no progress.
_COUNT = text(f"""
    WITH {_COUNTED},
    totals AS (
        INSERT INTO bonus_totals (window_id, task_count, feedback_count, person_count, computed_at, frozen_at)
        SELECT
            bonus.id, coalesce(sum(tasks), 0), coalesce(sum(feedback), 0), count(person), :now,
            CASE WHEN bonus."endTime" < :ended_before THEN CAST(:now AS timestamptz) END
        FROM bonus_windows AS bonus LEFT JOIN counted ON counted.window_id = bonus.id
        WHERE bonus.id = ANY(:ids)
        GROUP BY bonus.id
        ON CONFLICT (window_id) DO UPDATE SET
            task_count = excluded.task_count, feedback_count = excluded.feedback_count,
            person_count = excluded.person_count, computed_at = excluded.computed_at,
            frozen_at = excluded.frozen_at
    ),
    judged AS (
        SELECT
            counted.*, bonus."targetTaskCount" AS t1, bonus."targetFeedbackCount" AS f1,
            bonus."targetTaskCountTier2" AS t2, bonus."targetFeedbackCountTier2" AS f2,
            tasks >= bonus."targetTaskCount" AND feedback >= bonus."targetFeedbackCount" AS is_tier1,
            greatest(bonus."targetTaskCountTier2", bonus."targetFeedbackCountTier2") > 0
                AND tasks >= bonus."targetTaskCountTier2"
                AND feedback >= bonus."targetFeedbackCountTier2" AS meets_tier2
        FROM counted JOIN bonus_windows AS bonus ON bonus.id = counted.window_id
        WHERE person IS NOT NULL
    )
    INSERT INTO bonus_standings (
        window_id, person, name, task_count, feedback_count,
        task_progress, feedback_progress, task_progress_tier2, feedback_progress_tier2, tier
    )
    SELECT
        window_id, person, name, tasks, feedback,
        CASE WHEN t1 > 0 THEN least(100, 100 * tasks / t1) END,
        CASE WHEN f1 > 0 THEN least(100, 100 * feedback / f1) END,
        CASE WHEN t2 > 0 THEN least(100, 100 * tasks / t2) END,
        CASE WHEN f2 > 0 THEN least(100, 100 * feedback / f2) END,
        CASE WHEN is_tier1 AND meets_tier2 THEN 2 WHEN is_tier1 THEN 1 ELSE 0 END
    FROM judged
""").bindparams(_IDS)  # noqa: S608 - put together from constants


@dataclass(frozen=True)
class Standing:
    """One person in a window. Progress is in percent, None for a target of 0."""

    person: str
    name: str | None
    task_count: int
    feedback_count: int
    task_progress: int | None
    feedback_progress: int | None
    task_progress_tier2: int | None
    feedback_progress_tier2: int | None
    tier: int


@dataclass(frozen=True)
class WindowStandings:
    """A window's totals, records without a person included; its people, best tier and most records first."""

    window_id: UUID
    name: str
    start_time: datetime
    end_time: datetime
    task_count: int
    feedback_count: int
    person_count: int
    computed_at: datetime | None
    frozen_at: datetime | None
    rows: tuple[Standing, ...]


def refresh_open_windows(session: Session, *, now: datetime) -> int:
    """Count all windows that have begun and are not frozen; freeze those that ended a day ago.

    Two at once count one after the other.

    Args:
        session: the transaction to do it in.
        now: the moment it is, with its zone.

    Returns:
        How many windows were counted.
    """
    return _refresh(session, _open_windows(now), now)


def refresh_window(session: Session, window_id: UUID, *, now: datetime) -> bool:
    """Count one window; False where it has not begun, or is frozen or gone, and stays as it is."""
    return _refresh(session, _open_windows(now).where(BonusWindow.id == window_id), now) == 1


def _open_windows(now: datetime) -> Select[UUID]:
    return (
        select(BonusWindow.id)
        .outerjoin(BonusTotal, BonusTotal.window_id == BonusWindow.id)
        .where(BonusWindow.start_time <= now, BonusTotal.frozen_at.is_(None))
    )


def _refresh(session: Session, windows: Select[UUID], now: datetime) -> int:
    # In the order of their ids, so that two at once do not lock each other out.
    locked = session.scalars(windows.order_by(BonusWindow.id).with_for_update(of=BonusWindow)).all()
    # The lock may have been waited for: somebody else may have frozen a window meanwhile.
    ids = session.scalars(windows.where(BonusWindow.id.in_(locked))).all()
    if not ids:
        return 0
    session.execute(_FORGET, {"ids": ids})
    # Subtracted in UTC: on a clock that changes for summer a day may have 23 or 25 hours.
    ended_before = now.astimezone(UTC) - FREEZE_AFTER
    session.execute(_COUNT, {"ids": ids, "now": now, "ended_before": ended_before})
    return len(ids)


def show_standings(session: Session, window_id: UUID) -> WindowStandings:
    """Give a window's standings as they were last counted.

    Raises:
        NotFoundError: there is no such window.
    """
    window = session.get(BonusWindow, window_id)
    if window is None:
        raise NotFoundError(f"there is no bonus window {window_id}")
    total = session.get(BonusTotal, window_id, populate_existing=True)
    rows = session.scalars(
        select(BonusStanding)
        .where(BonusStanding.window_id == window_id)
        .order_by(
            BonusStanding.tier.desc(),
            (BonusStanding.task_count + BonusStanding.feedback_count).desc(),
            BonusStanding.person,
        )
        .execution_options(populate_existing=True)
    )
    return WindowStandings(
        window_id=window_id,
        name=window.name,
        start_time=window.start_time,
        end_time=window.end_time,
        task_count=total.task_count if total else 0,
        feedback_count=total.feedback_count if total else 0,
        person_count=total.person_count if total else 0,
        computed_at=total.computed_at if total else None,
        frozen_at=total.frozen_at if total else None,
        rows=tuple(
            Standing(**{name: getattr(row, name) for name in Standing.__dataclass_fields__}) for row in rows
        ),
    )
