"""The declarative base and the column types that several tables share."""

from datetime import datetime
from typing import Annotated

from sqlalchemy import TIMESTAMP, MetaData, Text, text
from sqlalchemy.orm import DeclarativeBase, mapped_column

# Names as PostgreSQL and Prisma would give them, so that both sides find the same constraints.
NAMING = {
    "pk": "%(table_name)s_pkey",
    "fk": "%(table_name)s_%(column_0_name)s_fkey",
    "uq": "%(table_name)s_%(column_0_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "ix": "idx_%(table_name)s_%(column_0_name)s",
}

# Without zone and yet UTC, whatever the session's time zone: plain now() would follow the session.
UTC_NOW = text("(now() AT TIME ZONE 'utc')")


class Base(DeclarativeBase):
    """Every table, the reference's and the pipeline's own."""

    metadata = MetaData(naming_convention=NAMING)


Cuid = Annotated[str, mapped_column(Text)]
UtcTimestamp = Annotated[datetime, mapped_column(TIMESTAMP(timezone=False), server_default=UTC_NOW)]
Moment = Annotated[datetime, mapped_column(TIMESTAMP(timezone=True))]
CreatedMoment = Annotated[datetime, mapped_column(TIMESTAMP(timezone=True), server_default=text("now()"))]
