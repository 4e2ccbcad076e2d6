"""Bearer tokens of the API: made once, shown once, stored as a SHA-256."""

import hashlib
import hmac
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import ColumnElement, func, or_, select, true, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from pipeline.audit import note
from pipeline.database import one_line
from pipeline.errors import InputError, NotFoundError
from pipeline.ids import new_cuid
from pipeline.users import create_user, find_user
from schemas.enums import UserRole
from schemas.own import ApiToken
from schemas.reference import Profile

log = logging.getLogger(__name__)

_PREFIX = "otk_"
FIRST_ADMIN = "admin@localhost"
LONGEST_LIFE = timedelta(days=36_500)
# How old `last_used_at` grows before a use is written down again.
_USE_EVERY = timedelta(minutes=5)


# Asked by every request, and so written as it is sent. By the clock and not now(), which stands still in a
# transaction.
_BEARERS = b"""
SELECT token.sha256, profile.id, profile.email, profile.role, token.id,
    coalesce(token.last_used_at < clock_timestamp() - %(use_every)s, true)
FROM api_tokens token JOIN profiles profile ON profile.id = token.profile_id
WHERE token.sha256 = ANY(%(wanted)s) AND token.revoked_at IS NULL
    AND coalesce(token.expires_at > clock_timestamp(), true)
"""


@dataclass(frozen=True)
class Bearer:
    """Whom a token stands for."""

    profile_id: UUID
    email: str
    role: UserRole
    token_id: str
    # Whether its last use was written down long ago, or never.
    is_use_due: bool


@dataclass(frozen=True)
class NewToken:
    """A token at the only moment when it can be read."""

    id: str
    token: str
    expires_at: datetime | None


@dataclass(frozen=True)
class TokenView:
    """A token as it is listed: everything but the token. `last_used_at` is exact to five minutes."""

    id: str
    name: str
    email: str
    role: UserRole
    created_at: datetime
    revoked_at: datetime | None
    expires_at: datetime | None
    last_used_at: datetime | None


def digest(token: str) -> str:
    """Give what is stored of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def create_token(session: Session, *, email: str, name: str, expires_in: timedelta | None = None) -> str:
    """Make a token and give its text alone; as `make_token`.

    Raises:
        NotFoundError, InputError: as `make_token`.
    """
    return make_token(session, email=email, name=name, expires_in=expires_in).token


def make_token(session: Session, *, email: str, name: str, expires_in: timedelta | None = None) -> NewToken:
    """Make a token for a user and give it; it cannot be read again.

    Args:
        session: the transaction to do it in.
        email: the user's address (or id).
        name: what the token is for.
        expires_in: how long it is valid; None for as long as nobody revokes it.

    Raises:
        NotFoundError: there is no such user.
        InputError: it would be valid for no time, or for more than a hundred years.
    """
    if expires_in is not None and not timedelta(0) < expires_in <= LONGEST_LIFE:
        raise InputError(f"a token is valid for more than no time and at most {LONGEST_LIFE.days:,} days")
    user = find_user(session, email)
    token = _PREFIX + secrets.token_hex(32)
    made = ApiToken(
        id=new_cuid(),
        profile_id=user.id,
        name=name,
        sha256=digest(token),
        # By the database's clock, which `find_bearers` goes by.
        expires_at=None if expires_in is None else func.clock_timestamp() + expires_in,
    )
    session.add(made)
    session.flush()
    note(session, "token.create", "token", made.id, user=user.email, name=name, expires_at=made.expires_at)
    return NewToken(made.id, token, made.expires_at)


def ensure_first_token(session: Session) -> str | None:
    """Make the first admin and a token, if there is no token yet; None where there is one."""
    # Two starters at once make one token: the second waits here and then finds it.
    session.execute(select(func.pg_advisory_xact_lock(func.hashtext("opspipe first token"))))
    if session.scalar(select(ApiToken.id).limit(1)) is not None:
        return None
    try:
        find_user(session, FIRST_ADMIN)
    except NotFoundError:
        create_user(session, FIRST_ADMIN, UserRole.ADMIN)
    return create_token(session, email=FIRST_ADMIN, name="first")


def find_bearers(connection: psycopg.Connection[Any], digests: Sequence[str]) -> dict[str, Bearer]:
    """Find whom tokens stand for, by their digests; those that are unknown, expired or revoked are left out.

    The look-up is by hash: its time tells nothing about a token. A use that is due is noted by `note_use`.
    """
    rows = connection.execute(_BEARERS, {"wanted": list(digests), "use_every": _USE_EVERY})
    return {
        wanted: Bearer(profile_id, email, UserRole(role), token_id, is_use_due)
        for sha256, profile_id, email, role, token_id, is_use_due in rows
        for wanted in digests
        if hmac.compare_digest(sha256, wanted)
    }


def note_use(session: Session, token_id: str) -> None:
    """Write down that a token is used. A request neither waits for this nor fails by it."""
    # Whose row somebody else holds is written down by the next request.
    before = func.clock_timestamp() - _USE_EVERY
    is_due = or_(ApiToken.last_used_at.is_(None), ApiToken.last_used_at < before)
    free = (
        select(ApiToken.id)
        .where(ApiToken.id == token_id, is_due)
        .with_for_update(skip_locked=True, key_share=True)
        .cte("free")
    )
    try:
        with session.begin_nested():
            session.execute(
                update(ApiToken)
                .where(ApiToken.id == free.c.id)
                .values(last_used_at=func.clock_timestamp())
                .execution_options(synchronize_session=False)
            )
    except DBAPIError as error:  # as of a database that is only read from
        log.warning("the use of token %s is not written down: %s", token_id, one_line(error.orig))


def list_tokens(session: Session, *, profile_id: UUID | None = None) -> list[TokenView]:
    """List the tokens, oldest first.

    Args:
        session: the transaction to ask in.
        profile_id: whose; None for everybody's.
    """
    rows = session.execute(
        select(
            ApiToken.id,
            ApiToken.name,
            Profile.email,
            Profile.role,
            ApiToken.created_at,
            ApiToken.revoked_at,
            ApiToken.expires_at,
            ApiToken.last_used_at,
        )
        .join(Profile, Profile.id == ApiToken.profile_id)
        .where(_is_of(profile_id))
        .order_by(ApiToken.created_at, ApiToken.id)
    )
    return [TokenView(*row) for row in rows]


def _is_of(profile_id: UUID | None) -> ColumnElement[bool]:
    return true() if profile_id is None else ApiToken.profile_id == profile_id


def revoke_token(session: Session, token_id: str, *, profile_id: UUID | None = None) -> None:
    """Revoke a token at once; revoking it again changes nothing.

    Args:
        session: the transaction to do it in.
        token_id: the token.
        profile_id: whose token it must be; None for anybody's.

    Raises:
        NotFoundError: there is no such token, or it is somebody else's.
    """
    is_meant = (ApiToken.id == token_id, _is_of(profile_id))
    of_user = select(Profile.email).where(Profile.id == ApiToken.profile_id).scalar_subquery()
    revoked = session.execute(
        update(ApiToken)
        .where(*is_meant, ApiToken.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .returning(ApiToken.name, of_user)
    ).first()
    if revoked is not None:
        name, email = revoked
        note(session, "token.revoke", "token", token_id, user=email, name=name)
    elif session.scalar(select(ApiToken.id).where(*is_meant)) is None:
        raise NotFoundError(f"there is no token {token_id!r}: `opspipe token list` shows them")
