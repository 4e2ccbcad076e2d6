"""Times as they are answered: with their zone, without which a client takes them for its own."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator


def with_zone(moment: datetime) -> datetime:
    """Give a time with its zone; without one it is UTC, as all columns are that have none."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


Instant = Annotated[datetime, AfterValidator(with_zone)]
