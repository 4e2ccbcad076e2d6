"""Listing records: filtered, in order of time or score, page by page. Nothing here changes one.

Every listing goes by an index, and what no index helps with, as a search in the text, is bounded in time
(docs/decisions/0018).
"""

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from psycopg.errors import QueryCanceled
from sqlalchemy import ColumnElement, Select, Text, asc, cast, desc, func, literal, null, select, tuple_
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.orm import Session

from pipeline.errors import InputError
from pipeline.moments import within_years
from schemas.enums import RecordCategory, RecordOrder, RecordType
from schemas.own import Alignment
from schemas.reference import DataRecord

# The most that a page may take; one that an index leads to takes milliseconds.
_SECONDS = 10.0


@dataclass(frozen=True)
class RecordFilter:
    """Which records are asked for; None asks for any. `search` is found anywhere in the text, in any case."""

    project_id: str | None = None
    type: RecordType | None = None
    category: RecordCategory | None = None
    search: str | None = None
    has_alignment: bool | None = None
    ingest_job_id: str | None = None


@dataclass(frozen=True)
class RecordView:
    """A record as listings show it; score, model and provider are None where there is no alignment.

    The embedding is None where it was not asked for, and empty where it is pending. Other clients write to
    the same columns: it and the metadata may be anything that these hold.
    """

    id: str
    project_id: str
    type: RecordType
    category: RecordCategory | None
    source: str
    content: str
    metadata: Any
    alignment_analysis: str | None
    alignment_score: int | None
    alignment_model: str | None
    alignment_provider: str | None
    created_by_id: str | None
    created_by_name: str | None
    created_by_email: str | None
    ingest_job_id: str | None
    created_at: datetime
    updated_at: datetime
    embedding: list[Any] | None


@dataclass(frozen=True)
class RecordPage:
    """Some records, and where the next ones begin: None after the last."""

    records: Sequence[RecordView]
    next_cursor: str | None


def list_records(
    session: Session,
    wanted: RecordFilter,
    *,
    sort_by: RecordOrder = RecordOrder.CREATED_AT,
    is_ascending: bool = False,
    limit: int = 50,
    cursor: str | None = None,
    with_embedding: bool = False,
) -> RecordPage:
    """List records, page by page; records that come or go meanwhile neither double nor hide others.

    Args:
        session: the transaction to ask in.
        wanted: which records.
        sort_by: in order of what; by score only records that have one are listed. Ties are in order of id.
        is_ascending: oldest or lowest first.
        limit: the most records of a page.
        cursor: `next_cursor` of the page before, of the same question; None for the first.
        with_embedding: read embeddings too.

    Raises:
        InputError: the cursor is of another order, or none at all, or the page takes too long to find.
    """
    order = _Order(sort_by, is_ascending)
    question = _listing(wanted, order, cursor, limit=limit, with_embedding=with_embedding)
    with _bounded(session):
        rows = [dict(row) for row in session.execute(question).mappings()]
    places = [row.pop("place") for row in rows]
    records = [RecordView(**row) for row in rows[:limit]]
    has_more = len(rows) > limit
    return RecordPage(records, order.write_cursor(places[limit - 1], records[-1].id) if has_more else None)


def _listing(
    wanted: RecordFilter, order: "_Order", cursor: str | None, *, limit: int, with_embedding: bool
) -> Select[Any]:
    question = _question(with_embedding=with_embedding).where(*_conditions(wanted)).limit(limit + 1)
    # As the columns are and nothing made of them, and of one table: else no index has this order.
    key: tuple[Any, Any] = (DataRecord.created_at, DataRecord.id)
    if order.is_by_score:
        key = (Alignment.score, Alignment.record_id)
        question = question.where(Alignment.record_id.is_not(None))
    question = question.add_columns(cast(key[0], Text).label("place"))
    if cursor is not None:
        place, last_id = order.read_cursor(cursor)
        last = tuple_(cast(literal(place, Text), key[0].type), literal(last_id, Text))
        question = question.where(tuple_(*key) > last if order.is_ascending else tuple_(*key) < last)
    return question.order_by(*map(asc if order.is_ascending else desc, key))


@contextmanager
def _bounded(session: Session) -> Iterator[None]:
    """Let the planner go by indexes, and end what takes too long; the transaction is as before afterwards."""
    with session.begin_nested() as savepoint:
        milliseconds = f"{_SECONDS * 1000:.0f}"
        # Of a search that finds little it would rather read the whole table, other projects included.
        session.execute(
            select(
                func.set_config("statement_timeout", milliseconds, True),
                func.set_config("enable_seqscan", "off", True),
            )
        )
        try:
            yield
        except OperationalError as error:
            if not isinstance(error.orig, QueryCanceled):
                raise
            raise InputError(
                f"no page of this listing was found within {_SECONDS:g} s: search for what is more "
                "frequent, or in fewer records, by project, type, category or job"
            ) from None
        except DataError:
            raise InputError("the cursor is none: take nextCursor of the page before as it is") from None
        # What was set for it ends with it.
        savepoint.rollback()


def _question(*, with_embedding: bool) -> Select[Any]:
    return select(
        DataRecord.id,
        DataRecord.project_id,
        DataRecord.type,
        DataRecord.category,
        DataRecord.source,
        DataRecord.content,
        DataRecord.meta.label("metadata"),
        DataRecord.alignment_analysis,
        Alignment.score.label("alignment_score"),
        Alignment.llm_model.label("alignment_model"),
        Alignment.provider.label("alignment_provider"),
        DataRecord.created_by_id,
        DataRecord.created_by_name,
        DataRecord.created_by_email,
        DataRecord.ingest_job_id,
        within_years(DataRecord.created_at).label("created_at"),
        within_years(DataRecord.updated_at).label("updated_at"),
        # A vector is many times as large as the rest of its record.
        (DataRecord.embedding if with_embedding else null()).label("embedding"),
    ).outerjoin(Alignment, Alignment.record_id == DataRecord.id)


def _conditions(wanted: RecordFilter) -> list[ColumnElement[bool]]:
    equal = {
        DataRecord.project_id: wanted.project_id,
        DataRecord.type: wanted.type,
        DataRecord.category: wanted.category,
        DataRecord.ingest_job_id: wanted.ingest_job_id,
    }
    conditions = [column == value for column, value in equal.items() if value is not None]
    if wanted.search:
        conditions.append(DataRecord.content.icontains(wanted.search, autoescape=True))
    if wanted.has_alignment is not None:
        found = DataRecord.alignment_analysis
        conditions.append(found.is_not(None) if wanted.has_alignment else found.is_(None))
    return conditions


@dataclass(frozen=True)
class _Order:
    """An order of records, and how a place in it is written down for the next page."""

    sort_by: RecordOrder
    is_ascending: bool

    @property
    def is_by_score(self) -> bool:
        return self.sort_by is RecordOrder.ALIGNMENT_SCORE

    def write_cursor(self, place: str, last_id: str) -> str:
        """Write down the sort key, as PostgreSQL writes it, and the id of a page's last record."""
        found = orjson.dumps([self.sort_by, self.is_ascending, place, last_id])
        return base64.urlsafe_b64encode(found).decode()

    def read_cursor(self, cursor: str) -> tuple[str, str]:
        """Give the sort key and the id of the last record of the page before."""
        try:
            sort_by, is_ascending, place, last_id = orjson.loads(base64.urlsafe_b64decode(cursor))
        except (ValueError, TypeError) as error:
            # binascii.Error and JSONDecodeError are ValueErrors.
            raise InputError("the cursor is none: take nextCursor of the page before as it is") from error
        if (sort_by, is_ascending) != (self.sort_by, self.is_ascending):
            raise InputError("the cursor is of another order: ask for the first page of this one")
        # PostgreSQL takes no such text at all.
        if "\0" in f"{place}{last_id}":
            raise InputError("the cursor is none: take nextCursor of the page before as it is")
        return str(place), str(last_id)
