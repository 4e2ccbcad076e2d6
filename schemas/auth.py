"""Supabase's table of users: found where there is Supabase, else made by our migrations.

Only the columns are here that we write; where Supabase made the table it has more, and types of its own.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from schemas.base import Base, CreatedMoment

AUTH = "auth"


class AuthUser(Base):
    """Who may sign in; a profile is what this application knows of one, and goes with it."""

    __tablename__ = "users"
    __table_args__ = {"schema": AUTH}  # noqa: RUF012 - SQLAlchemy reads it from the class

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str | None] = mapped_column(String(255))
    # Supabase's, and empty where it is not there: who asks the API shows a token.
    encrypted_password: Mapped[str | None] = mapped_column(String(255))
    raw_user_meta_data: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    created_at: Mapped[CreatedMoment | None]
    updated_at: Mapped[CreatedMoment | None]
