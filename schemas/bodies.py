"""Request and response bodies of the HTTP API: camelCase outside, snake_case inside."""

import json
from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from schemas.enums import AnalysisScope, RecordType
from schemas.options import AnalysisOptions, IngestOptions


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
    created_at: datetime
    updated_at: datetime
    progress: Progress | None
    spent: Spent | None


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


class ProjectBody(Body):
    """The project that something is to be done with."""

    project_id: str = Field(min_length=1)


class VectorizationBody(ProjectBody):
    """Which of a project's records are to be embedded."""

    all: bool = False


class AnalysisBody(ProjectBody):
    """Which records an analysis takes up, what is asked about them, what it may cost."""

    scope: AnalysisScope = AnalysisScope.MISSING
    likert: bool = False
    budget_usd: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    dry_run: bool = False

    def to_options(self) -> AnalysisOptions:
        """Give the options that are kept with the job."""
        return AnalysisOptions(scope=self.scope, likert=self.likert, budget_usd=self.budget_usd)


class AnalysisAnswer(Body):
    """202: the analysis that was started."""

    job_id: str
    total_records: int


class EstimateAnswer(Body):
    """200: what an analysis would do and cost; the cost is null where no price is known."""

    model: str
    total_records: int
    calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None


class RetryBody(JobBody):
    """The job that is to be taken up again, and what it may cost in all from now on."""

    budget_usd: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class AnalysesQuery(Body):
    """Which analyses are asked for."""

    project_id: str | None = None
    job_id: str | None = None
    limit: int = Field(default=50, ge=1, le=500)


class AnalysisStatus(Body):
    """An analysis's row, its progress and what it has cost."""

    id: str
    project_id: str
    status: str
    total_records: int
    processed_count: int
    error: str | None
    created_at: datetime
    updated_at: datetime
    progress: Progress | None
    spent: Spent | None
    budget_usd: float | None


class AnalysisList(Body):
    """Analyses, newest first."""

    jobs: list[AnalysisStatus]


class CompareBody(Body):
    """The record whose alignment is asked for."""

    record_id: str = Field(min_length=1)
    force_regenerate: bool = False


class CompareAnswer(Body):
    """A record held against the guidelines of its project."""

    record_id: str
    score: int
    analysis: str
    provider: str
    llm_model: str
    created_at: datetime
    cached: bool


class TrendsBody(ProjectBody):
    """Of which records the best and the worst are compared."""

    type: RecordType


class TrendsBodyAnswer(Body):
    """What distinguishes them: as Markdown, and by its parts."""

    analysis: str
    method: str
    summary: str
    best: list[str]
    worst: list[str]
    advice: list[str]


class SimilarBody(Body):
    """What the nearest records are asked of: a record of a project, or a text and a project."""

    record_id: str | None = Field(default=None, min_length=1)
    text: str | None = Field(default=None, min_length=1)
    project_id: str | None = None
    limit: int = Field(default=10, ge=1, le=1_000)

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.record_id is None) == (self.text is None):
            raise ValueError("say either recordId, or text and projectId")
        if self.text is not None and self.project_id is None:
            raise ValueError("projectId is missing: it says whose records are searched for the text")
        return self


class NeighbourAnswer(Body):
    """A record and its cosine similarity, -1 to 1."""

    id: str
    type: RecordType
    content: str
    similarity: float


class SimilarAnswer(Body):
    """The nearest records, the nearest first."""

    records: list[NeighbourAnswer]


class FlagsQuery(Body):
    """Whose near-duplicates are asked for."""

    project_id: str = Field(min_length=1)
    limit: int = Field(default=100, ge=1, le=10_000)


class FlagAnswer(Body):
    """A task that is nearly the same as an earlier one of the same person."""

    record_id: str
    similar_id: str
    similarity: float
    model: str
    created_by: str | None
    content: str
    similar_content: str
    created_at: datetime
    similar_created_at: datetime


class FlagList(Body):
    """Near-duplicates, the most similar first."""

    flags: list[FlagAnswer]


class ModelStatus(Body):
    """How one of the two models answered just now."""

    purpose: str
    model: str
    answers: bool
    milliseconds: float | None
    detail: str | None
    error: str | None


class AiStatusAnswer(Body):
    """Whether both models answer."""

    provider: str
    status: str
    models: list[ModelStatus]


class BalanceAnswer(Body):
    """What is left of a prepaid account in USD; `remainingUsd` is null where nothing limits the key."""

    provider: str
    is_prepaid: bool
    spent_usd: float | None
    remaining_usd: float | None
