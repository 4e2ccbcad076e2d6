"""The audit log: who did what to which thing, written in the transaction that does it and never changed.

Whoever opens the pipeline's door says who is acting: the command line a user of the machine, the API whom a
token stands for. What nobody asked for is done by `system`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from pipeline.errors import InputError
from pipeline.states import job_table
from schemas.enums import JobKind
from schemas.own import AuditEntry

SYSTEM = "system"
# What the log's ids hold.
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class _Actor:
    name: str
    id: UUID | None


_NOBODY = _Actor(SYSTEM, None)
_current: ContextVar[_Actor] = ContextVar("actor", default=_NOBODY)


@dataclass(frozen=True)
class Act:
    """A row of the log; `details` are what the action says of itself."""

    id: int
    at: datetime
    actor: str
    actor_id: UUID | None
    action: str
    kind: str
    thing_id: str
    project_id: str | None
    details: dict[str, Any]


@dataclass(frozen=True)
class ActPage:
    """Some acts, and where the ones before them begin: None after the oldest."""

    acts: Sequence[Act]
    next_cursor: str | None


@contextmanager
def acting(actor: str, actor_id: UUID | None = None) -> Iterator[None]:
    """Say who does what is done in this block, in this thread.

    Args:
        actor: an e-mail address, `cli:` and a user of the machine, or `system`.
        actor_id: the profile, if there is one.
    """
    token = _current.set(_Actor(actor, actor_id))
    try:
        yield
    finally:
        _current.reset(token)


def note(
    session: Session, action: str, kind: str, thing_id: str, project_id: str | None = None, **details: object
) -> None:
    """Write down an act in the transaction that does it: both are there, or neither.

    Args:
        session: the transaction.
        action: what is done, as `job.submit`.
        kind: what it is done to, as `job`.
        thing_id: which one.
        project_id: the project that it belongs to, if it does.
        details: what else is worth knowing, None where there is nothing to say. Never a secret, a token or
            what a file holds: the log is read by every admin and nothing can be taken out of it.
    """
    actor = _current.get()
    said = {key: value for key, value in details.items() if value is not None}
    session.execute(
        insert(AuditEntry).values(
            actor=actor.name,
            actor_id=actor.id,
            action=action,
            kind=kind,
            thing_id=thing_id,
            project_id=project_id,
            # Times and ids become text.
            details=orjson.loads(orjson.dumps(said)),
        )
    )


def note_job(session: Session, action: str, kind: JobKind, job_id: str, **details: object) -> None:
    """Write down what is done to a job that is there, by its whole id (see `note`)."""
    table = job_table(kind)
    project_id = session.scalar(select(table.project_id).where(table.id == job_id))
    note(session, action, "job", job_id, project_id, **details)


def list_acts(
    session: Session,
    *,
    actor: str | None = None,
    project_id: str | None = None,
    thing_id: str | None = None,
    action: str | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> ActPage:
    """List what was done, newest first and page by page; None asks for any.

    Args:
        session: the transaction to ask in.
        actor: who did it, exactly as it is written down.
        project_id: in which project, by its whole id; also one that is gone.
        thing_id: to which thing, by its whole id.
        action: what, as `job.submit`.
        limit: the most acts of a page.
        cursor: `next_cursor` of the page before; None for the first.

    Raises:
        InputError: the cursor is none.
    """
    equal = {
        AuditEntry.actor: actor,
        AuditEntry.project_id: project_id,
        AuditEntry.thing_id: thing_id,
        AuditEntry.action: action,
    }
    conditions = [column == value for column, value in equal.items() if value is not None]
    question = select(AuditEntry).where(*conditions)
    if cursor is not None:
        question = question.where(AuditEntry.id < _read_cursor(cursor))
    rows = session.scalars(question.order_by(AuditEntry.id.desc()).limit(limit + 1)).all()
    acts = [_act(row) for row in rows[:limit]]
    return ActPage(acts, str(acts[-1].id) if len(rows) > limit else None)


def _read_cursor(cursor: str) -> int:
    # Python reads digits of any script, and any number of them.
    if not cursor.isascii() or not cursor.isdecimal() or int(cursor[:20]) > _LARGEST:
        raise InputError("the cursor is none: take nextCursor of the page before as it is")
    return int(cursor)


def _act(row: AuditEntry) -> Act:
    return Act(
        row.id,
        row.at,
        row.actor,
        row.actor_id,
        row.action,
        row.kind,
        row.thing_id,
        row.project_id,
        row.details,
    )
