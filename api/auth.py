"""Who is asking: the bearer token, the role behind it, and whose project it is."""

from flask import request
from sqlalchemy.orm import Session
from werkzeug.exceptions import Forbidden, Unauthorized

from pipeline.database import transaction
from pipeline.projects import is_owner
from pipeline.tokens import Bearer, find_bearer
from schemas.enums import UserRole

# What a role may do, its own and that of every role before it.
_ORDER = (UserRole.PENDING, UserRole.USER, UserRole.MANAGER, UserRole.ADMIN)


def require_role(least: UserRole) -> Bearer:
    """Give whom the request's token stands for, if the role is `least` or above.

    Raises:
        Unauthorized: no token, or none that is valid.
        Forbidden: the role does not allow this.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("send a token: Authorization: Bearer otk_...")
    with transaction() as session:
        bearer = find_bearer(session, token.strip())
    if bearer is None:
        raise Unauthorized("the token is unknown or revoked")
    if _ORDER.index(bearer.role) < _ORDER.index(least):
        raise Forbidden(f"this needs the role {least} and the token has {bearer.role}")
    return bearer


def require_writer(session: Session, bearer: Bearer, project_id: str) -> None:
    """See that a project, by its whole id, may be written to: by its owner or an ADMIN.

    Raises:
        Forbidden: it may not.
    """
    if bearer.role is not UserRole.ADMIN and not is_owner(session, project_id, bearer.profile_id):
        raise Forbidden("only the project's owner or an ADMIN may write to it")
