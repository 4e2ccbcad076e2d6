"""Bearer tokens of the API: made once, shown once, stored as a SHA-256."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pipeline.errors import NotFoundError
from pipeline.ids import new_cuid
from schemas.enums import UserRole
from schemas.own import ApiToken
from schemas.reference import Profile

_PREFIX = "otk_"
FIRST_ADMIN = "admin@localhost"


@dataclass(frozen=True)
class Bearer:
    """Whom a token stands for."""

    profile_id: UUID
    email: str
    role: UserRole


@dataclass(frozen=True)
class TokenView:
    """A token as it is listed: everything but the token."""

    id: str
    name: str
    email: str
    role: UserRole
    created_at: datetime
    revoked_at: datetime | None


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def create_token(session: Session, *, email: str, name: str) -> str:
    """Make a token for a profile and give it; it cannot be read again.

    Raises:
        NotFoundError: there is no profile of this e-mail address.
    """
    profile_id = session.scalar(select(Profile.id).where(Profile.email == email))
    if profile_id is None:
        raise NotFoundError(f"there is no user {email!r}")
    token = _PREFIX + secrets.token_hex(32)
    session.add(ApiToken(id=new_cuid(), profile_id=profile_id, name=name, sha256=_hash(token)))
    session.flush()
    return token


def ensure_first_token(session: Session) -> str | None:
    """Make the first admin and a token, if there is no token yet; None where there is one."""
    # Two starters at once make one token: the second waits here and then finds it.
    session.execute(select(func.pg_advisory_xact_lock(func.hashtext("opspipe first token"))))
    if session.scalar(select(ApiToken.id).limit(1)) is not None:
        return None
    session.execute(
        upsert(Profile)
        .values(id=uuid4(), email=FIRST_ADMIN, role=UserRole.ADMIN)
        .on_conflict_do_nothing(index_elements=["email"])
    )
    return create_token(session, email=FIRST_ADMIN, name="first")


def find_bearer(session: Session, token: str) -> Bearer | None:
    """Find whom a token stands for; None where it is unknown or revoked.

    The look-up is by hash: its time tells nothing about the token.
    """
    row = session.execute(
        select(Profile.id, Profile.email, Profile.role)
        .join(ApiToken, ApiToken.profile_id == Profile.id)
        .where(ApiToken.sha256 == _hash(token), ApiToken.revoked_at.is_(None))
    ).first()
    return None if row is None else Bearer(row.id, row.email, row.role)


def list_tokens(session: Session) -> list[TokenView]:
    """List all tokens, oldest first."""
    rows = session.execute(
        select(ApiToken, Profile)
        .join(Profile, Profile.id == ApiToken.profile_id)
        .order_by(ApiToken.created_at, ApiToken.id)
    )
    return [
        TokenView(token.id, token.name, profile.email, profile.role, token.created_at, token.revoked_at)
        for token, profile in rows
    ]


def revoke_token(session: Session, token_id: str) -> None:
    """Revoke a token at once; revoking it again changes nothing.

    Raises:
        NotFoundError: there is no such token.
    """
    found = session.scalar(
        update(ApiToken)
        .where(ApiToken.id == token_id)
        .values(revoked_at=func.coalesce(ApiToken.revoked_at, func.now()))
        .returning(ApiToken.id)
    )
    if found is None:
        raise NotFoundError(f"there is no token {token_id!r}: `opspipe token list` shows them")
