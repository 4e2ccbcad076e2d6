"""Keys of requests: whoever sends a request again, because no answer came, gets the job that it made.

The key is claimed in the transaction that makes the job, and before anything else there: of two requests with
one key the second waits for the first one's commit and then makes nothing. What was answered is kept
afterwards; where a crash came in between, the key still names the job.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, func, null, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.errors import DuplicateError, InputError, KeyTakenError, NotFoundError
from schemas.own import IdempotencyKey

# Older keys count as absent.
KEY_LIFE = timedelta(hours=24)
LONGEST_KEY = 255
_BATCH = 5_000


@dataclass(frozen=True)
class _Request:
    profile_id: UUID
    key: str
    sha256: str
    route: str


_current: ContextVar[_Request | None] = ContextVar("keyed request", default=None)


@dataclass(frozen=True)
class Answer:
    """What a request with a key has led to; status and body are None where nothing was answered yet."""

    status: int | None
    body: Any
    job_id: str | None


@contextmanager
def keyed(profile_id: UUID, key: str, request_sha256: str, route: str) -> Iterator[None]:
    """Say that the job which this block makes, in this thread, is that of a request with a key.

    Args:
        profile_id: who asks; keys of others are others.
        key: as it was sent.
        request_sha256: of the request's body.
        route: what was called, as `POST /api/ingest/csv`.

    Raises:
        InputError: the key is none that can be.
    """
    if not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        raise InputError(f"a key has 1 to {LONGEST_KEY} printable characters: send a UUID, for example")
    token = _current.set(_Request(profile_id, key, request_sha256, route))
    try:
        yield
    finally:
        _current.reset(token)


def claim_key(session: Session, job_id: str) -> None:
    """Let the current request's key, if there is one, name the job that this transaction makes.

    To be called before the transaction locks anything: another one with the same key is waited for.

    Raises:
        KeyTakenError: the key names a job already; the transaction is to be rolled back.
        NotFoundError: who asks was deleted meanwhile.
    """
    request = _current.get()
    if request is None:
        return
    anew = {
        "request_sha256": request.sha256,
        "route": request.route,
        "job_id": job_id,
        "answer_status": None,
        "answer": null(),
        "created_at": func.now(),
    }
    claim = (
        upsert(IdempotencyKey)
        .values(profile_id=request.profile_id, key=request.key, **anew)
        .on_conflict_do_update(
            index_elements=["profile_id", "key"],
            set_=anew,
            where=IdempotencyKey.created_at <= func.now() - KEY_LIFE,
        )
        .returning(IdempotencyKey.job_id)
    )
    try:
        claimed = session.scalar(claim)
    except IntegrityError as error:
        raise NotFoundError("the user whose token this is was deleted at this moment") from error
    if claimed is None:
        is_meant = _is_key(request.profile_id, request.key)
        earlier = session.scalar(select(IdempotencyKey.job_id).where(is_meant))
        raise KeyTakenError(
            f"the request with the key {request.key!r} has made job {earlier} already", job_id=earlier
        )


def find_answer(
    session: Session, profile_id: UUID, key: str, request_sha256: str, *, route: str | None = None
) -> Answer | None:
    """Find what a request with this key has led to; None where there was none in the last 24 hours.

    Args:
        session: the transaction to ask in.
        profile_id: who asks.
        key: as it was sent.
        request_sha256: of the request's body.
        route: what is called; None for whatever it was.

    Raises:
        DuplicateError: the key was used for another request.
    """
    row = session.execute(
        select(
            IdempotencyKey.request_sha256,
            IdempotencyKey.route,
            IdempotencyKey.answer_status,
            IdempotencyKey.answer,
            IdempotencyKey.job_id,
        ).where(_is_key(profile_id, key), IdempotencyKey.created_at > func.now() - KEY_LIFE)
    ).first()
    if row is None:
        return None
    if row.request_sha256 != request_sha256 or route not in {None, row.route}:
        raise DuplicateError(
            f"the key {key!r} was used for another request: send each with a key of its own",
            job_id=row.job_id,
        )
    return Answer(row.answer_status, row.answer, row.job_id)


def keep_answer(session: Session, profile_id: UUID, key: str, status: int, body: object) -> None:
    """Keep what was answered to a request with a key, for the next one; the first answer stands.

    Nothing is kept of a request that made no job: sent again, it is tried again.

    Args:
        session: the transaction to do it in.
        profile_id: who asked.
        key: as it was sent.
        status: of HTTP.
        body: what can be JSON.
    """
    session.execute(
        update(IdempotencyKey)
        .where(_is_key(profile_id, key), IdempotencyKey.answer_status.is_(None))
        .values(answer_status=status, answer=body)
        .execution_options(synchronize_session=False)
    )


def _is_key(profile_id: UUID, key: str) -> ColumnElement[bool]:
    return and_(IdempotencyKey.profile_id == profile_id, IdempotencyKey.key == key)


def remove_old_keys(now: datetime) -> int:
    """Remove the keys that count as absent, batch by batch; gives their number."""
    count = 0
    while removed := _remove_batch(now - KEY_LIFE):
        count += removed
    return count


def _remove_batch(before: datetime) -> int:
    old = (
        select(IdempotencyKey.profile_id, IdempotencyKey.key)
        .where(IdempotencyKey.created_at < before)
        .limit(_BATCH)
        # One that is claimed anew at this moment is none of them.
        .with_for_update(skip_locked=True)
        .cte("old")
    )
    with transaction() as session:
        removed = session.execute(
            delete(IdempotencyKey)
            .where(IdempotencyKey.profile_id == old.c.profile_id, IdempotencyKey.key == old.c.key)
            .returning(IdempotencyKey.key)
            .execution_options(synchronize_session=False)
        )
        return len(removed.all())
