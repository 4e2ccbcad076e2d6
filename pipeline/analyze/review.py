"""What a review takes and gives, and who reviews: the local measure, or a language model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.ai import Usage, Vectors
from pipeline.errors import PermanentError, PipelineError
from pipeline.guidelines import Guidelines
from schemas.report import AlignmentReport, LikertAnswer


@dataclass(frozen=True)
class RecordText:
    """A record as a reviewer sees it; the embedding has shape (dimensions,) where there is one."""

    id: str
    content: str
    embedding: Vectors | None


@dataclass(frozen=True)
class Wanted:
    """What is asked about one record."""

    record: RecordText
    alignment: bool
    likert: bool


@dataclass(frozen=True)
class Assessment:
    """A record held against the guidelines, and what that has used; None where nothing was called."""

    report: AlignmentReport
    usage: Usage | None = None


@dataclass
class Reviewed:
    """What was found, by record; what is in none of these is open, as `stopped_by` says."""

    alignments: dict[str, Assessment] = field(default_factory=dict)
    ratings: dict[str, LikertAnswer] = field(default_factory=dict)
    failures: dict[str, PermanentError] = field(default_factory=dict)
    stopped_by: PipelineError | None = None


class Reviewer(Protocol):
    """Somebody who reviews records."""

    @property
    def provider(self) -> str:
        """The provider's name, as it is kept with results."""

    @property
    def model(self) -> str:
        """The model's name, as it is kept with results."""

    @property
    def prompt_version(self) -> str:
        """Changes whenever the same record and guidelines would be judged differently."""

    def review(self, wanted: Sequence[Wanted], guidelines: Guidelines) -> Reviewed:
        """Answer what is wanted of each record."""
