"""Users: a row in auth.users, and the profile that says what its owner may do here."""

import re
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import Text, cast, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from pipeline.audit import note
from pipeline.errors import ConflictError, DuplicateError, InputError, NotFoundError
from schemas.auth import AuthUser
from schemas.enums import UserRole
from schemas.reference import Profile

# No more than this: whether there is such a mailbox, only a message to it would tell.
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_LONGEST_EMAIL = 254


@dataclass(frozen=True)
class UserView:
    """A user as listings show it."""

    id: UUID
    email: str
    role: UserRole
    created_at: datetime


def normalize_email(email: str) -> str:
    """Give an address as it is stored: trimmed and in lower case.

    Raises:
        InputError: it is no e-mail address.
    """
    found = email.strip().lower()
    if not _EMAIL.fullmatch(found) or not found.isprintable() or len(found) > _LONGEST_EMAIL:
        raise InputError(f"{email!r} is no e-mail address: give one such as ann@example.com")
    return found


def create_user(session: Session, email: str, role: UserRole = UserRole.PENDING) -> UserView:
    """Make a user with a profile.

    Args:
        session: the transaction to do it in.
        email: the address; white space around it and capitals do not matter.
        role: what the user may do.

    Raises:
        InputError: it is no e-mail address.
        DuplicateError: there is a user of this address.
    """
    email = normalize_email(email)
    taken = select(Profile.id).where(func.lower(Profile.email) == email)
    try:
        with session.begin_nested():
            if session.scalar(taken) is not None:
                raise _taken(email)
            user_id = _insert_user(session, email, role)
            note(session, "user.create", "user", str(user_id), email=email, role=role)
    except IntegrityError as error:  # somebody made one at the same time
        raise _taken(email) from error
    return find_user(session, user_id)


def _insert_user(session: Session, email: str, role: UserRole) -> UUID:
    now = func.now()
    user = AuthUser(id=uuid4(), email=email, raw_user_meta_data={}, created_at=now, updated_at=now)
    session.add(user)
    session.flush()
    # Supabase may have made the profile at this moment, by a trigger on its users.
    session.execute(
        upsert(Profile)
        .values(id=user.id, email=email, role=role)
        .on_conflict_do_update(index_elements=["id"], set_={"email": email, "role": role})
    )
    return user.id


def _taken(email: str) -> DuplicateError:
    return DuplicateError(f"there is a user {email!r} already: `opspipe user list` shows them")


def find_user(session: Session, who: UUID | str) -> UserView:
    """Find a user by id or e-mail address; capitals in an address do not matter.

    Raises:
        NotFoundError: there is none.
    """
    meant = str(who).strip()
    row = session.execute(
        select(Profile.id, Profile.email, Profile.role, Profile.created_at)
        .where(or_(func.lower(Profile.email) == meant.lower(), cast(Profile.id, Text) == meant.lower()))
        # Other clients may have written addresses that differ in capitals alone.
        .order_by((Profile.email == meant).desc(), Profile.created_at)
        .limit(1)
    ).first()
    if row is None:
        raise NotFoundError(f"there is no user {meant!r}: `opspipe user list` shows them")
    return UserView(*row)


def list_users(session: Session) -> list[UserView]:
    """List all users, oldest first."""
    question = select(Profile.id, Profile.email, Profile.role, Profile.created_at)
    return [UserView(*row) for row in session.execute(question.order_by(Profile.created_at, Profile.id))]


def change_role(session: Session, who: UUID | str, role: UserRole) -> UserView:
    """Give a user another role; it holds from the next request on.

    Args:
        session: the transaction to do it in.
        who: the user's id or e-mail address.
        role: what the user may do from now on.

    Raises:
        NotFoundError: there is no such user.
        ConflictError: it is the last ADMIN.
    """
    user = _lock_user(session, who)
    if role is user.role:
        return user
    _keep_an_admin(session, user)
    note(session, "user.role", "user", str(user.id), email=user.email, old=user.role, new=role)
    session.execute(
        update(Profile)
        .where(Profile.id == user.id)
        .values(role=role, updated_at=func.timezone("utc", func.now()))
    )
    return find_user(session, user.id)


def delete_user(session: Session, who: UUID | str) -> UserView:
    """Delete a user with profile and tokens; gives who it was. Projects stay, without an owner.

    Args:
        session: the transaction to do it in.
        who: the user's id or e-mail address.

    Raises:
        NotFoundError: there is no such user.
        ConflictError: it is the last ADMIN.
    """
    user = _lock_user(session, who)
    _keep_an_admin(session, user)
    note(session, "user.delete", "user", str(user.id), email=user.email, role=user.role)
    session.execute(delete(AuthUser).where(AuthUser.id == user.id))
    return user


def _lock_user(session: Session, who: UUID | str) -> UserView:
    """Find a user whom nobody changes or deletes until the transaction ends.

    Of two who take admins away at once the second waits here, and then sees who is left.
    """
    session.execute(select(func.pg_advisory_xact_lock(func.hashtext("opspipe admins"))))
    user = find_user(session, who)
    # Against other clients of the database, too.
    session.execute(select(Profile.id).where(Profile.id == user.id).with_for_update())
    return find_user(session, user.id)


def _keep_an_admin(session: Session, user: UserView) -> None:
    other = select(Profile.id).where(Profile.role == UserRole.ADMIN, Profile.id != user.id).limit(1)
    if user.role is UserRole.ADMIN and session.scalar(other) is None:
        raise ConflictError(
            f"{user.email} is the last ADMIN, and without one nobody could give roles any more: "
            "make another user ADMIN first"
        )
