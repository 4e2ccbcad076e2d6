"""How a server does, kept in the database so that all workers slow down together and know how long it fails.

A failure pauses the server for everybody, each further one for longer; a success ends that. A refusal for too
many calls at once also lowers how many are made, and time without one raises it again.
"""

import random
from dataclasses import dataclass
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
    """A server's state: seconds left of its pause and since it began to fail; 0 where it does well."""

    pause_seconds: float = 0.0
    failing_seconds: float = 0.0
    failures: int = 0
    slots: int | None = None
    reason: str | None = None

    @property
    def is_failing(self) -> bool:
        """Whether the last that is known of it is a failure."""
        return self.failures > 0


def read_health(url: str) -> Health:
    """Ask how a server does."""
    with transaction(is_durable=False) as session:
        row = session.execute(
            select(
                func.extract("epoch", AiServer.paused_until - func.clock_timestamp()).label("pause"),
                func.extract("epoch", func.clock_timestamp() - AiServer.failing_since).label("failing"),
                AiServer.failures,
                AiServer.slots,
                AiServer.reason,
            ).where(AiServer.url == url)
        ).first()
    if row is None:
        return Health()
    return Health(
        max(float(row.pause or 0), 0.0),
        max(float(row.failing or 0), 0.0),
        row.failures,
        row.slots,
        row.reason,
    )


def note_failure(url: str, reason: str, *, failures: int, retry_after: float | None) -> None:
    """Pause a server for everybody.

    Args:
        url: the server.
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
        .values(url=url, paused_until=until, failing_since=now, failures=1, reason=reason)
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


def note_success(url: str) -> None:
    """Say that a failing server answers again; a pause that it asked for stays."""
    is_paused = AiServer.paused_until > func.clock_timestamp()
    reason = case((is_paused, AiServer.reason), else_=None)
    _write(update(AiServer).where(AiServer.url == url).values(failing_since=None, failures=0, reason=reason))


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
