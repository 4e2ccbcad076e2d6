"""Request and response bodies of `/api/admin`: settings, users, tokens and the audit log."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from schemas.bodies import Asked, Body
from schemas.enums import UserRole
from schemas.instants import Instant

Email = Annotated[str, Field(min_length=3, max_length=254)]


class SettingsAnswer(Body):
    """Every known setting by its key; of a secret only whether it is set."""

    settings: dict[str, str]


class SettingBody(Asked):
    """A setting's new value."""

    key: str = Field(min_length=1)
    value: str = Field(max_length=10_000)


class UserAnswer(Body):
    """A user."""

    id: UUID
    email: str
    role: UserRole
    created_at: Instant


class UserList(Body):
    """All users."""

    users: list[UserAnswer]


class NewUser(Asked):
    """A user to be made."""

    email: Email
    role: UserRole = UserRole.PENDING


class RoleBody(Asked):
    """A user's new role."""

    user_id: UUID
    role: UserRole


class UserQuery(Asked):
    """The user that something is to be done with."""

    user_id: UUID


class TokensQuery(Asked):
    """Whose tokens are asked for; everybody's where nobody is named."""

    user_id: UUID | None = None


class TokenAnswer(Body):
    """A token, without the token; `lastUsedAt` is exact to five minutes."""

    id: str
    name: str
    email: str
    role: UserRole
    created_at: Instant
    revoked_at: Instant | None
    expires_at: Instant | None
    last_used_at: Instant | None


class TokenList(Body):
    """Tokens, oldest first."""

    tokens: list[TokenAnswer]


class NewTokenBody(Asked):
    """A token to be made; without days it is valid until it is revoked."""

    email: Email
    name: str = Field(default="token", min_length=1, max_length=200)
    expires_in_days: int | None = Field(default=None, ge=1, le=36_500)


class NewTokenAnswer(Body):
    """201: the token, which is shown this once."""

    id: str
    token: str
    expires_at: Instant | None


class TokenQuery(Asked):
    """The token that is to be revoked."""

    token_id: str = Field(min_length=1)


class TokenRevocation(Body):
    """The token that is valid no more."""

    token_id: str


class AuditQuery(Asked):
    """Which acts are asked for; `cursor` is `nextCursor` of the page before."""

    actor: str | None = None
    project_id: str | None = None
    thing_id: str | None = None
    action: str | None = None
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = None


class ActAnswer(Body):
    """Who did what to which thing, and when."""

    id: int
    at: Instant
    actor: str
    actor_id: UUID | None
    action: str
    kind: str
    thing_id: str
    project_id: str | None
    details: dict[str, Any]


class ActList(Body):
    """A page of the audit log, newest first, and where the next one begins: null after the last."""

    acts: list[ActAnswer]
    next_cursor: str | None
