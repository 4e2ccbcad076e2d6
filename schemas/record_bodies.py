"""Request and response bodies of `/api/records`."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from schemas.bodies import Asked, Body
from schemas.enums import RecordCategory, RecordOrder, RecordType, SortDirection
from schemas.instants import Instant


class RecordsQuery(Asked):
    """Which records are asked for, in which order; `cursor` is `nextCursor` of the page before."""

    project_id: str | None = None
    type: RecordType | None = None
    category: RecordCategory | None = None
    search: str | None = None
    has_alignment: bool | None = None
    ingest_job_id: str | None = None
    sort_by: RecordOrder = RecordOrder.CREATED_AT
    order: SortDirection = SortDirection.DESC
    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = None
    include: Literal["embedding"] | None = None

    @model_validator(mode="after")
    def _check_scored(self) -> Self:
        if self.sort_by is RecordOrder.ALIGNMENT_SCORE and self.has_alignment is False:
            raise ValueError("records without alignment have no score to be in order of")
        return self


class RecordAnswer(Body):
    """A record, the score behind its alignment, and who gave it; all of that null where there is none."""

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
    created_at: Instant
    updated_at: Instant
    # Null where it was not asked for; empty where it is pending. Of another client it may hold nulls.
    embedding: list[Any] | None


class RecordList(Body):
    """A page of records, and where the next one begins: null after the last."""

    records: list[RecordAnswer]
    next_cursor: str | None
