"""Who is let in where: the one table of routes and roles, and the token that is asked for before each.

The roles are those of contract.md, section 5. A route that is not in the table is closed to everybody.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

from flask import Flask, g, request
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from werkzeug.exceptions import Forbidden, NotFound, Unauthorized

from api.rates import note_guess
from pipeline.audit import acting
from pipeline.database import read, transaction
from pipeline.errors import TransientError
from pipeline.projects import is_owner
from pipeline.together import Together
from pipeline.tokens import Bearer, digest, find_bearers, note_use
from schemas.enums import UserRole

log = logging.getLogger(__name__)

# What a role may do, its own and that of every role before it.
_ORDER = (UserRole.PENDING, UserRole.USER, UserRole.MANAGER, UserRole.ADMIN)


@dataclass(frozen=True)
class Access:
    """Who may use a route.

    Args:
        least: the role that is needed; None for everybody, without a token.
        is_for_owners: whether it changes a project, which only its owner and an ADMIN may.
    """

    least: UserRole | None
    is_for_owners: bool = False


EVERYBODY = Access(None)
USER, MANAGER, ADMIN = Access(UserRole.USER), Access(UserRole.MANAGER), Access(UserRole.ADMIN)
OWNER = Access(UserRole.MANAGER, is_for_owners=True)

ACCESS: Mapping[str, Access] = {
    "GET /api/status": EVERYBODY,
    "GET /api/docs": EVERYBODY,
    "GET /api/docs/<path:name>": EVERYBODY,
    "GET /api/openapi.json": EVERYBODY,
    "GET /metrics": EVERYBODY,
    "GET /api/projects": USER,
    "POST /api/projects": MANAGER,
    "PUT /api/projects/<project_id>/guidelines": OWNER,
    "DELETE /api/projects/<project_id>": OWNER,
    "OPTIONS /api/uploads": MANAGER,
    "POST /api/uploads": MANAGER,
    "OPTIONS /api/uploads/<upload_id>": MANAGER,
    "HEAD /api/uploads/<upload_id>": MANAGER,
    "PATCH /api/uploads/<upload_id>": MANAGER,
    "DELETE /api/uploads/<upload_id>": MANAGER,
    # What it does stands in a header of its own.
    "POST /api/uploads/<upload_id>": MANAGER,
    "POST /api/ingest/csv": OWNER,
    "POST /api/ingest/api": OWNER,
    "POST /api/ingest/retroactive-vectorization": OWNER,
    "GET /api/ingest/status": MANAGER,
    "GET /api/ingest/jobs": MANAGER,
    "DELETE /api/ingest/jobs/<job_id>": OWNER,
    "GET /api/ingest/jobs/<job_id>/rejects.csv": MANAGER,
    "GET /api/ingest/jobs/<job_id>/events": MANAGER,
    "POST /api/ingest/cancel": OWNER,
    "POST /api/ingest/retry": OWNER,
    "GET /api/jobs/<job_id>/failures": MANAGER,
    "POST /api/admin/bulk-align": OWNER,
    "GET /api/admin/bulk-align": MANAGER,
    "POST /api/admin/bulk-align/cancel": OWNER,
    "POST /api/admin/bulk-align/retry": OWNER,
    "POST /api/analytics/compare": USER,
    "POST /api/analytics/trends": OWNER,
    "GET /api/records": USER,
    "POST /api/records/similar": USER,
    "GET /api/similarity-flags": USER,
    "GET /api/ai/status": ADMIN,
    "GET /api/ai/balance": ADMIN,
    "GET /api/admin/bonus-windows": MANAGER,
    "POST /api/admin/bonus-windows": MANAGER,
    "PATCH /api/admin/bonus-windows": MANAGER,
    "DELETE /api/admin/bonus-windows": MANAGER,
    "GET /api/admin/bonus-windows/records": MANAGER,
    "GET /api/admin/settings": ADMIN,
    "POST /api/admin/settings": ADMIN,
    "GET /api/admin/users": ADMIN,
    "POST /api/admin/users": ADMIN,
    "PATCH /api/admin/users": ADMIN,
    "DELETE /api/admin/users": ADMIN,
    "GET /api/admin/tokens": ADMIN,
    "POST /api/admin/tokens": ADMIN,
    "DELETE /api/admin/tokens": ADMIN,
    "GET /api/admin/audit": ADMIN,
    "POST /api/admin/clear": ADMIN,
}


def register_access(app: Flask) -> None:
    """Have each request checked before its view is called."""
    app.before_request(_check_access)
    app.teardown_request(_forget_actor)


def access_to(method: str, rule: str) -> Access | None:
    """Look up who may use a route; None where the table does not know it."""
    return ACCESS.get(f"{method} {rule}")


def bearer() -> Bearer:
    """Give whom the request's token stands for."""
    return cast("Bearer", g.bearer)


def require_writer(session: Session, project_id: str) -> None:
    """See that a project, by its whole id, may be written to: by its owner or an ADMIN.

    Raises:
        Forbidden: it may not.
    """
    asking = bearer()
    if asking.role is not UserRole.ADMIN and not is_owner(session, project_id, asking.profile_id):
        raise Forbidden("only the project's owner or an ADMIN may write to it")


def _check_access() -> None:
    if request.url_rule is None:
        return  # 404 or 405, which tell nothing
    if any("\0" in value for value in (request.view_args or {}).values()):
        raise NotFound("a NUL is in no name")
    access = _find_access(request.method, request.url_rule.rule)
    if access.least is not None:
        g.bearer = _ask_for_token()
        if _ORDER.index(g.bearer.role) < _ORDER.index(access.least):
            raise Forbidden(f"this needs the role {access.least} and the token has {g.bearer.role}")
        g.actor = ExitStack()
        g.actor.enter_context(acting(g.bearer.email, g.bearer.profile_id))


def _find_access(method: str, rule: str) -> Access:
    access = access_to(method, rule)
    if access is None and method == "HEAD":
        access = access_to("GET", rule)
    if access is None and method == "OPTIONS":
        access = EVERYBODY  # Flask's own answer names the methods of the route
    if access is None:
        raise Forbidden("nobody may use this route: it has no place in the table of roles")
    return access


def _forget_actor(_error: BaseException | None) -> None:
    # The thread's next request is somebody else's.
    if "actor" in g:
        g.pop("actor").close()


def _ask_for_token() -> Bearer:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("send a token: Authorization: Bearer otk_...")
    found = _bearers.find(digest(token.strip()))
    if found is None:
        note_guess()
        raise Unauthorized("the token is unknown, expired or revoked")
    if found.is_use_due:
        _note_use(found.token_id)
    return found


def _note_use(token_id: str) -> None:
    try:
        with transaction(is_durable=False) as session:
            note_use(session, token_id)
    except (TransientError, SQLAlchemyError) as error:
        # The request is answered all the same: the next one writes it down.
        log.warning("the use of token %s is not written down: %s", token_id, error)


def _find_bearers(digests: Sequence[str]) -> Mapping[str, Bearer]:
    return read(lambda connection: find_bearers(connection, digests))


_bearers = Together(_find_bearers)
