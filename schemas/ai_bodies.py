"""Request and response bodies of what models do: analyses, trends, similar records, how the models are."""

from typing import Self

from pydantic import Field, model_validator

from schemas.bodies import Asked, Body, Progress, ProjectBody, Spent
from schemas.enums import AnalysisScope, RecordType
from schemas.instants import Instant
from schemas.options import AnalysisOptions


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


class AnalysesQuery(Asked):
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
    created_at: Instant
    updated_at: Instant
    progress: Progress | None
    # Records that were given up for good (`/api/jobs/<id>/failures`).
    failed_count: int
    # Why it does not go on at the moment; null where it does.
    waiting_for: str | None
    spent: Spent | None
    budget_usd: float | None


class AnalysisList(Body):
    """Analyses, newest first."""

    jobs: list[AnalysisStatus]


class CompareBody(Asked):
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
    created_at: Instant
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


class SimilarBody(Asked):
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


class FlagsQuery(Asked):
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
    created_at: Instant
    similar_created_at: Instant


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
