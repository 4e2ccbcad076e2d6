"""Times of records, to which other clients write: also such as Python's type does not hold."""

from datetime import datetime

from sqlalchemy import ColumnElement, func, literal
from sqlalchemy.orm import InstrumentedAttribute

# Without zone, as the columns are.
_FIRST, _LAST = datetime.min, datetime.max  # noqa: DTZ901 - see above


def within_years(moment: InstrumentedAttribute[datetime]) -> ColumnElement[datetime]:
    """Bring a column's time that Python's type does not hold, as infinity, to the last or first that it does.

    Args:
        moment: a column of times without zone, which are UTC.
    """
    # Of the column's own type: beside a time with a zone, PostgreSQL would take it for one of the session's.
    first, last = literal(_FIRST, moment.type), literal(_LAST, moment.type)
    return func.greatest(func.least(moment, last), first, type_=moment.type)
