"""Listing records: filtered, in order of time or score, page by page. Nothing here changes one."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Select, asc, desc, null, select, tuple_
from sqlalchemy.orm import Session

from pipeline.errors import InputError
from schemas.enums import RecordCategory, RecordOrder, RecordType
from schemas.own import Alignment
from schemas.reference import DataRecord


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

    The embedding is None where it was not asked for, and empty where it is pending.
    """

    id: str
    project_id: str
    type: RecordType
    category: RecordCategory | None
    source: str
    content: str
    metadata: dict[str, Any] | None
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
    embedding: list[float] | None


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
        InputError: the cursor is of another order, or none at all.
    """
    is_by_score = sort_by is RecordOrder.ALIGNMENT_SCORE
    key = Alignment.score if is_by_score else DataRecord.created_at
    question = _question(with_embedding=with_embedding).where(*_conditions(wanted)).limit(limit + 1)
    if is_by_score:
        question = question.where(Alignment.record_id.is_not(None))
    order = _Order(sort_by, is_ascending)
    if cursor is not None:
        last, place = order.read_cursor(cursor), tuple_(key, DataRecord.id)
        question = question.where(place > last if is_ascending else place < last)
    ordered = [asc(key), asc(DataRecord.id)] if is_ascending else [desc(key), desc(DataRecord.id)]
    records = [RecordView(**row) for row in session.execute(question.order_by(*ordered)).mappings()]
    has_more = len(records) > limit
    records = records[:limit]
    return RecordPage(records, order.write_cursor(records[-1]) if has_more else None)


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
        DataRecord.created_at,
        DataRecord.updated_at,
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

    def write_cursor(self, last: RecordView) -> str:
        is_by_score = self.sort_by is RecordOrder.ALIGNMENT_SCORE
        value = last.alignment_score if is_by_score else last.created_at.isoformat()
        found = orjson.dumps([self.sort_by, self.is_ascending, value, last.id])
        return base64.urlsafe_b64encode(found).decode()

    def read_cursor(self, cursor: str) -> tuple[Any, str]:
        """Give the sort key and the id of the last record of the page before."""
        try:
            sort_by, is_ascending, value, last_id = orjson.loads(base64.urlsafe_b64decode(cursor))
            if (sort_by, is_ascending) != (self.sort_by, self.is_ascending):
                raise InputError("the cursor is of another order: ask for the first page of this one")
            is_by_score = self.sort_by is RecordOrder.ALIGNMENT_SCORE
            return int(value) if is_by_score else datetime.fromisoformat(value), str(last_id)
        except (ValueError, TypeError) as error:
            # binascii.Error and JSONDecodeError are ValueErrors.
            raise InputError("the cursor is none: take nextCursor of the page before as it is") from error
