"""What a review takes and gives, and who reviews: the local measure, or a language model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pipeline.ai import Usage, Vectors
from pipeline.errors import PermanentError, PipelineError
from pipeline.guidelines import Guidelines
from schemas.report import AlignmentReport, LikertAnswer


@dataclass(frozen=True)
class RecordText:
    """A record as a reviewer sees it.

    Args:
        id: the record.
        content: its text.
        embedding: what the model that the reviewer embeds with is known to have made of this very text, of
            shape (dimensions,); None where that is not known (see `pipeline.analyze.texts`).
    """

    id: str
    content: str
    embedding: Vectors | None

    def usable_embedding(self, dimensions: int) -> Vectors | None:
        """Give the embedding where it has so many numbers, all of them finite and not all of them 0."""
        own = self.embedding
        if own is None or own.shape != (dimensions,) or not (np.isfinite(own).all() and own.any()):
            return None
        return own


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
    def embedding_model(self) -> str:
        """The model whose embeddings of records are of use to the review."""

    @property
    def prompt_version(self) -> str:
        """Changes whenever the same record and guidelines would be judged differently."""

    def review(self, wanted: Sequence[Wanted], guidelines: Guidelines) -> Reviewed:
        """Answer what is wanted of each record."""
