"""What every provider of models speaks, and the checks that every answer has to pass."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PermanentError
from schemas.report import AlignmentReport

Vectors = NDArray[np.float64]


class EmbeddingModel(Protocol):
    """Turns texts into vectors."""

    @property
    def name(self) -> str:
        """The model's name, as it is kept with results."""

    @property
    def max_input_chars(self) -> int:
        """The longest text that is given to it in one piece, in characters."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Embed n texts as an array of shape (n, dimensions)."""


@dataclass(frozen=True)
class RecordText:
    """A record as an analyst sees it; the embedding has shape (dimensions,) where there is one."""

    id: str
    content: str
    embedding: Vectors | None


@dataclass(frozen=True)
class Assessment:
    """What an analyst says of a record, and what it cost."""

    report: AlignmentReport
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None


class Analyst(Protocol):
    """Holds records against rules."""

    @property
    def model(self) -> str:
        """The model's name, as it is kept with results."""

    @property
    def prompt_version(self) -> str:
        """Changes whenever the same record and rules would be assessed differently."""

    def assess(self, records: Sequence[RecordText], rules: Sequence[str]) -> list[Assessment]:
        """Assess each record against all rules, in the order of the records."""


def verify_embeddings(vectors: Vectors, count: int) -> Vectors:
    """Believe an answer only after looking at it.

    Args:
        vectors: what the model answered.
        count: how many texts it was given.

    Returns:
        The same vectors.

    Raises:
        PermanentError: the shape is wrong, a number is not finite, or a vector is all zero.
    """
    if vectors.ndim != 2 or vectors.shape[0] != count or vectors.shape[1] == 0:  # noqa: PLR2004 - rows, columns
        raise PermanentError(f"the model answered with shape {vectors.shape} for {count} texts")
    if not np.isfinite(vectors).all():
        raise PermanentError("the model answered with numbers that are not finite")
    if not vectors.any(axis=1).all():
        raise PermanentError("the model answered with a vector of zeros")
    return vectors
