"""Whom a token stands for, asked within a test's own transaction."""

from sqlalchemy.orm import Session

from pipeline.database import driver_connection
from pipeline.tokens import Bearer, digest, find_bearers


def find_bearer(session: Session, token: str) -> Bearer | None:
    """Find whom a token stands for; None where it is unknown, expired or revoked."""
    session.flush()
    wanted = digest(token)
    return find_bearers(driver_connection(session), [wanted]).get(wanted)
