"""What a job was asked to do: options as they are submitted and kept with the job."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.enums import AnalysisScope, RecordType
from schemas.storable import Storable

# The targets that a column mapping may name (record-rules.md, section 2).
MAPPING_TARGETS = frozenset(
    {
        "content",
        "type",
        "rating",
        "id",
        "createdAt",
        "updatedAt",
        "createdById",
        "createdByName",
        "createdByEmail",
    }
)


class IngestOptions(BaseModel):
    """How a batch is to be loaded and what is to follow."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    record_type: RecordType
    keywords: tuple[Storable, ...] = ()
    mapping: dict[str, Storable] = Field(default_factory=dict)
    encoding: Storable | None = None
    delimiter: Storable | None = None
    embed: bool = True
    analyze: bool = False
    # Load bytes that the project has already; of a batch by URL they are not known before it was fetched.
    force: bool = False

    @model_validator(mode="after")
    def _check_mapping(self) -> Self:
        unknown = sorted(set(self.mapping) - MAPPING_TARGETS)
        if unknown:
            raise ValueError(
                f"a column mapping cannot set {', '.join(unknown)}: choose from "
                f"{', '.join(sorted(MAPPING_TARGETS))}"
            )
        return self


class AnalysisOptions(BaseModel):
    """Which records an analysis takes up, what is asked about them, and what it may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scope: AnalysisScope = AnalysisScope.MISSING
    # Ratings of realism and quality beside the alignment.
    likert: bool = False
    budget_usd: float | None = Field(default=None, gt=0, allow_inf_nan=False)
