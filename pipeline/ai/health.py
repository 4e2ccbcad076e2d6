"""How a server does, kept in the database so that all workers slow down together and know how long it fails.

A failure pauses the server for everybody, each further one for longer; a success ends that. A refusal for too
many calls at once also lowers how many are made, and time without one raises it again.

A server is its URL. What is called of it, a model or a list, has a row of its own, that tells since when it
fails: a model that is down is not well because another one of the same server answers.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, case, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from pipeline.database import transaction
from schemas.own import AiServer

_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 30.0
# Nobody called for so long: the next failure is a new outage, not the old one going on.
_FORGOTTEN_AFTER = timedelta(minutes=10)
_LOWER_FACTOR, _LOWER_EVERY = 0.7, timedelta(seconds=1)
_RAISE_EVERY = timedelta(seconds=2)


@dataclass(frozen=True)
class Health:
    """A server's state: seconds left of its pause, and since when which parts of it fail, in seconds."""

    pause_seconds: float = 0.0
    failing: Mapping[str, float] = field(default_factory=dict)
    failures: int = 0
    slots: int | None = None
    reason: str | None = None

    def is_failing(self, part: str) -> bool:
        """Tell whether the last that is known of the server or of a part of it is a failure."""
        return self.failures > 0 or part in self.failing


def read_health(url: str) -> Health:
    """Ask how a server does."""
    begin = _row_of(url, "")
    with transaction(is_durable=False) as session:
        rows = session.execute(
            select(
                AiServer.url,
                func.extract("epoch", AiServer.paused_until - func.clock_timestamp()).label("pause"),
                func.extract("epoch", func.clock_timestamp() - AiServer.failing_since).label("failing"),
                AiServer.failures,
                AiServer.slots,
                AiServer.reason,
            ).where(or_(AiServer.url == url, func.starts_with(AiServer.url, begin)))
        ).all()
    failing = {
        row.url.removeprefix(begin): max(float(row.failing), 0.0)
        for row in rows
        if row.url != url and row.failing is not None
    }
    for row in rows:
        if row.url == url:
            return Health(max(float(row.pause or 0), 0.0), failing, row.failures, row.slots, row.reason)
    return Health(failing=failing)


def _row_of(url: str, part: str) -> str:
    # No URL holds a space.
    return f"{url} {part}"


def note_failure(url: str, part: str, reason: str, *, failures: int, retry_after: float | None) -> None:
    """Pause a server for everybody.

    Args:
        url: the server.
        part: the model or list that was called.
        reason: what a call was told, for those who look at a job that does not move.
        failures: how many the caller knew of; each doubles the pause.
        retry_after: seconds that the server asked for; None where it did not.
    """
    if retry_after is None:
        longest = min(_SHORTEST_PAUSE_SECONDS * 2.0 ** min(failures, 10), _LONGEST_PAUSE_SECONDS)
        retry_after = random.uniform(longest / 2, longest)  # noqa: S311 - jitter, no secret
    now = func.clock_timestamp()
    until = now + timedelta(seconds=retry_after)
    # Calls that were under way together fail together: that is one failure.
    is_another = or_(AiServer.paused_until.is_(None), AiServer.paused_until < now)
    is_new = or_(AiServer.failing_since.is_(None), AiServer.paused_until < now - _FORGOTTEN_AFTER)
    _write(
        upsert(AiServer)
        .values(
            [
                {"url": row, "paused_until": until, "failing_since": now, "failures": 1, "reason": reason}
                for row in (url, _row_of(url, part))
            ]
        )
        .on_conflict_do_update(
            index_elements=["url"],
            set_={
                "paused_until": func.greatest(AiServer.paused_until, until),
                "failing_since": case((is_new, now), else_=AiServer.failing_since),
                "failures": case((is_new, 1), (is_another, AiServer.failures + 1), else_=AiServer.failures),
                "reason": reason,
            },
        )
    )


def note_success(url: str, part: str, *, ends_pause: bool = False) -> None:
    """Say that a failing part of a server answers again.

    Args:
        url: the server.
        part: the model or list that was called.
        ends_pause: whether a pause ends that the server asked for; else it stays.
    """
    is_paused = AiServer.paused_until > func.clock_timestamp()
    values: dict[str, Any] = {"failing_since": None, "failures": 0}
    if ends_pause:
        values |= {"paused_until": None, "reason": None}
    else:
        values["reason"] = case((is_paused, AiServer.reason), else_=None)
    _write(update(AiServer).where(AiServer.url.in_([url, _row_of(url, part)])).values(values))


def note_listed(url: str, part: str) -> None:
    """Say that a list of the server is told; of its models that says nothing."""
    _write(update(AiServer).where(AiServer.url == _row_of(url, part)).values(failing_since=None, failures=0))


def lower_slots(url: str, configured: int) -> None:
    """Make fewer calls at a time, because the server refused one for being too many."""
    lower = func.greatest(
        1, func.floor(func.least(func.coalesce(AiServer.slots, configured), configured) * _LOWER_FACTOR)
    )
    _write(
        update(AiServer)
        .where(
            AiServer.url == url,
            or_(AiServer.slots.is_(None), AiServer.updated_at < func.clock_timestamp() - _LOWER_EVERY),
        )
        .values(slots=lower, updated_at=func.clock_timestamp())
    )


def raise_slots(url: str, configured: int) -> None:
    """Make one call more at a time after a while without refusal, up to what is configured."""
    _write(
        update(AiServer)
        .where(
            and_(AiServer.url == url, AiServer.slots.is_not(None)),
            AiServer.updated_at < func.clock_timestamp() - _RAISE_EVERY,
        )
        .values(
            slots=case((AiServer.slots + 1 >= configured, None), else_=AiServer.slots + 1),
            updated_at=func.clock_timestamp(),
        )
    )


def _write(statement: Any) -> None:  # noqa: ANN401 - an insert or an update
    with transaction(is_durable=False) as session:
        session.execute(statement.execution_options(synchronize_session=False))
