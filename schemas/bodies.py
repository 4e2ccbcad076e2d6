"""Request and response bodies of the HTTP API: camelCase outside, snake_case inside."""

import json
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from schemas.enums import RecordType
from schemas.options import IngestOptions


def _split_list(value: object) -> object:
    """Accept a list as a JSON array or as comma-separated text: forms know only text."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        return _parse_json(text)
    return [part.strip() for part in text.split(",") if part.strip()]


def _parse_object(value: object) -> object:
    """Accept an object as JSON text."""
    if not isinstance(value, str):
        return value
    return _parse_json(value) if value.strip() else {}


def _parse_json(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class SubmissionForm(Body):
    """What a submission says, wherever its rows come from."""

    project_id: str = Field(min_length=1)
    type: RecordType
    filter_keywords: Annotated[tuple[str, ...], BeforeValidator(_split_list)] = ()
    generate_embeddings: bool = True
    analyze: bool = False
    column_mapping: Annotated[dict[str, str], BeforeValidator(_parse_object)] = Field(default_factory=dict)
    force: bool = False

    def to_options(self, **others: str | None) -> IngestOptions:
        """Give the options that are kept with the job."""
        return IngestOptions(
            record_type=self.type,
            keywords=self.filter_keywords,
            mapping=self.column_mapping,
            embed=self.generate_embeddings,
            analyze=self.analyze,
            **others,
        )


class CsvForm(SubmissionForm):
    """A CSV: the fields beside the file, or all of it as JSON with `csvData`."""

    encoding: str | None = None
    delimiter: str | None = None
    csv_data: str | None = None
    file_name: str | None = None


class UrlForm(SubmissionForm):
    """A batch in JSON that a worker is to fetch."""

    url: str = Field(min_length=1)


class SubmissionAnswer(Body):
    """202: the job that was made of a submission."""

    job_id: str
    message: str
    # Null where the batch is still to be fetched.
    estimated_records: int | None


class Progress(Body):
    """How far the stage under way, or the last one, is. Counts are in records, times in seconds."""

    stage: str
    done: int
    total: int
    failed: int
    rate_per_second: float | None
    eta_seconds: float | None


class IngestStatus(Body):
    """A job's row and its progress."""

    id: str
    project_id: str
    type: RecordType
    status: str
    total_records: int
    saved_count: int
    skipped_count: int
    skipped_details: dict[str, int]
    error: str | None
    created_at: datetime
    updated_at: datetime
    progress: Progress | None


class JobList(Body):
    """Jobs, newest first."""

    jobs: list[IngestStatus]


class JobsQuery(Body):
    """Which jobs are asked for."""

    project_id: str | None = None
    limit: int = Field(default=50, ge=1, le=500)


class JobBody(Body):
    """The job that something is to be done with."""

    job_id: str = Field(min_length=1)


class JobAnswer(Body):
    """What became of it."""

    job_id: str
    status: str


class DeletionAnswer(Body):
    """How many of a deleted job's records this request removed, and how many others will."""

    job_id: str
    deleted_records: int
    remaining_records: int
