"""Windows: making, finding, changing and deleting them. What a window may be: contract.md, section 6."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, Text, cast, delete, func, or_, select
from sqlalchemy.orm import Session

from pipeline.audit import note
from pipeline.errors import ConflictError, InputError, NotFoundError
from schemas.own import BonusStanding, BonusTotal
from schemas.reference import BonusWindow

_TARGETS = (
    ("target_task_count", "target_task_count_tier2", "task"),
    ("target_feedback_count", "target_feedback_count_tier2", "feedback"),
)
_CHANGEABLE = frozenset(
    {"name", "start_time", "end_time", *(name for tier1, tier2, _ in _TARGETS for name in (tier1, tier2))}
)
_LARGEST = 2**31 - 1  # what an integer column holds


def create_window(
    session: Session,
    *,
    name: str,
    start_time: datetime,
    end_time: datetime,
    created_by: UUID,
    target_task_count: int = 0,
    target_feedback_count: int = 0,
    target_task_count_tier2: int = 0,
    target_feedback_count_tier2: int = 0,
) -> BonusWindow:
    """Make a window. Bounds are inclusive, and UTC where they have no zone; a target of 0 asks for nothing.

    Raises:
        InputError: it is none that can be; says which rule it breaks.
    """
    window = BonusWindow(
        id=uuid4(),
        name=name,
        start_time=_with_zone(start_time),
        end_time=_with_zone(end_time),
        target_task_count=target_task_count,
        target_feedback_count=target_feedback_count,
        target_task_count_tier2=target_task_count_tier2,
        target_feedback_count_tier2=target_feedback_count_tier2,
        created_by=created_by,
    )
    _validate(window)
    session.add(window)
    session.flush()
    note(
        session,
        "window.create",
        "bonus_window",
        str(window.id),
        **{field: getattr(window, field) for field in sorted(_CHANGEABLE)},
    )
    return window


def update_window(session: Session, window_id: UUID, **changes: object) -> BonusWindow:
    """Change some of a window's fields; the window as it will be is validated as a whole.

    Other bounds make the standings void: there are none until the next refresh.

    Raises:
        NotFoundError: there is no such window.
        ConflictError: its result is frozen.
        InputError: a field is unknown, or the window would be none that can be.
    """
    unknown = sorted(set(changes) - _CHANGEABLE)
    if unknown:
        raise InputError(f"a bonus window has no field {', '.join(unknown)} that can be changed")
    window = session.get(BonusWindow, window_id, with_for_update=True, populate_existing=True)
    if window is None:
        raise NotFoundError(f"there is no bonus window {window_id}")
    if _is_frozen(session, window_id):
        raise ConflictError(f"the result of {window.name!r} is frozen: make a new window instead")
    old = {field: getattr(window, field) for field in changes}
    with session.no_autoflush:
        for field, value in changes.items():
            setattr(window, field, _with_zone(value) if isinstance(value, datetime) else value)
        try:
            _validate(window)
        except InputError:
            session.expire(window)
            raise
    window.updated_at = datetime.now(UTC)
    session.flush()
    new = {field: getattr(window, field) for field in changes}
    note(session, "window.change", "bonus_window", str(window_id), old=old, new=new)
    if changes.keys() & {"start_time", "end_time"}:
        for counted in (BonusStanding, BonusTotal):
            session.execute(delete(counted).where(counted.window_id == window_id))
    return window


def list_windows(session: Session) -> list[BonusWindow]:
    """List the windows, latest first."""
    return list(session.scalars(select(BonusWindow).order_by(BonusWindow.start_time.desc(), BonusWindow.id)))


def get_window(session: Session, key: UUID | str) -> BonusWindow:
    """Find a window by its id or its name, else by the beginning of its id.

    Raises:
        NotFoundError: none, or more than one, is meant by that.
    """
    text = str(key)
    window_id = cast(BonusWindow.id, Text)
    found = _find_two(session, or_(window_id == text.lower(), BonusWindow.name == text))
    if text and not found:
        found = _find_two(session, window_id.startswith(text.lower(), autoescape=True))
    if len(found) != 1:
        problem = "more than one bonus window is meant by" if found else "there is no bonus window"
        raise NotFoundError(f"{problem} {text!r}: `opspipe bonus list` shows them")
    return found[0]


def _find_two(session: Session, is_meant: ColumnElement[bool]) -> Sequence[BonusWindow]:
    return session.scalars(select(BonusWindow).where(is_meant).limit(2)).all()


def delete_window(session: Session, window_id: UUID) -> None:
    """Delete a window with its standings.

    Raises:
        NotFoundError: there is no such window.
    """
    name = session.scalar(delete(BonusWindow).where(BonusWindow.id == window_id).returning(BonusWindow.name))
    if name is None:
        raise NotFoundError(f"there is no bonus window {window_id}")
    note(session, "window.delete", "bonus_window", str(window_id), name=name)


def _with_zone(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_frozen(session: Session, window_id: UUID) -> bool:
    found = session.scalar(
        select(func.count()).where(BonusTotal.window_id == window_id, BonusTotal.frozen_at.is_not(None))
    )
    return bool(found)


def _validate(window: BonusWindow) -> None:
    if not window.name.strip():
        raise InputError("a bonus window needs a name")
    if window.end_time <= window.start_time:
        raise InputError("the end of a bonus window must be after its start")
    for tier1, tier2, what in _TARGETS:
        first, second = getattr(window, tier1), getattr(window, tier2)
        if first < 0 or second < 0:
            raise InputError(f"a {what} target cannot be negative: 0 asks for nothing")
        if max(first, second) > _LARGEST:
            raise InputError(f"a {what} target cannot be above {_LARGEST}: give a smaller one")
        if second and second < first:
            raise InputError(f"the tier 2 {what} target must be 0 or at least that of tier 1 ({first})")
    if not any(getattr(window, tier1) for tier1, _, _ in _TARGETS):
        raise InputError("at least one tier 1 target must be above 0")
