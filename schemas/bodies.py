"""Request and response bodies of the HTTP API: camelCase outside, snake_case inside."""

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic.alias_generators import to_camel

from schemas.enums import RecordType
from schemas.instants import Instant
from schemas.names import FileName
from schemas.options import IngestOptions
from schemas.storable import check_all_storable


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

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, serialize_by_alias=True, extra="forbid"
    )


class Asked(Body):
    """What is asked of us, as a body or in the query: texts that no table can hold are refused."""

    # Fields whose text goes into a file and not into the database.
    files: ClassVar[frozenset[str]] = frozenset()

    @field_validator("*", mode="before")
    @classmethod
    def _check_storable(cls, value: object, info: ValidationInfo) -> object:
        return value if info.field_name in cls.files else check_all_storable(value)


class ErrorAnswer(Body):
    """What went wrong, and what to do."""

    error: str
    code: str
    details: dict[str, Any]


class StatusAnswer(Body):
    """Whether the parts are there, and how many workers."""

    status: Literal["ok", "down"]
    database: Literal["ok", "down"]
    broker: Literal["ok", "down"]
    workers: int
    timestamp: Instant


class SubmissionForm(Asked):
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
    """A CSV: the fields beside the file, or all of it as JSON with `csvData` or `uploadId`."""

    files = frozenset({"csv_data"})

    encoding: str | None = None
    delimiter: str | None = None
    csv_data: str | None = None
    # A finished upload (`/api/uploads`), which becomes the job's.
    upload_id: str | None = Field(default=None, min_length=1)
    file_name: FileName | None = None


class CsvUpload(CsvForm):
    """A CSV as a form: the fields beside the file. It describes the form, which is read as it comes."""

    file: Annotated[Any, WithJsonSchema({"type": "string", "format": "binary"})]


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


class Spent(Body):
    """What a job's calls of models have used; the cost is 0 where no price is known."""

    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float


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
    created_at: Instant
    updated_at: Instant
    progress: Progress | None
    # Records that were given up for good (`/api/jobs/<id>/failures`).
    failed_count: int
    # Why it does not go on at the moment; null where it does.
    waiting_for: str | None
    spent: Spent | None


class JobList(Body):
    """Jobs, newest first."""

    jobs: list[IngestStatus]


class JobsQuery(Asked):
    """Which jobs are asked for."""

    project_id: str | None = None
    limit: int = Field(default=50, ge=1, le=500)


class FailuresQuery(Asked):
    """Which page of a job's failed records is asked for; `cursor` is `nextCursor` of the page before."""

    limit: int = Field(default=50, ge=1, le=500)
    cursor: str | None = None


class FailureAnswer(Body):
    """A record that a stage of a job could not work on, and why."""

    record_id: str
    stage: str
    code: str
    message: str
    content: str
    created_at: Instant


class FailureList(Body):
    """A page of failed records, and where the next one begins: null after the last."""

    failures: list[FailureAnswer]
    next_cursor: str | None


class JobBody(Asked):
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


class ProjectBody(Asked):
    """The project that something is to be done with."""

    project_id: str = Field(min_length=1)


class VectorizationBody(ProjectBody):
    """Which of a project's records are to be embedded."""

    all: bool = False


class RetryBody(JobBody):
    """The job that is to be taken up again, and what it may cost in all from now on."""

    budget_usd: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class StatusQuery(Asked):
    """The job whose counts are asked for."""

    job_id: str = Field(min_length=1)
