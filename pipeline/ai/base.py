"""What every provider of models speaks, and what goes in and out. No provider and no database here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import FatalError

# Of 32 bits a number where a server sends no more: half the memory and its traffic.
Vectors = NDArray[np.floating[Any]]


class BudgetSpentError(FatalError):
    """The job has used up what it may cost; `retry` with a larger budget resumes it."""

    code = "BUDGET_SPENT"


@dataclass(frozen=True)
class Usage:
    """What calls have used, as the server counts it; `cost_usd` is None where nobody knows a price.

    `is_counted` is False where the server does not count and tokens are guessed.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    is_counted: bool = True

    def __add__(self, other: "Usage") -> "Usage":
        known = [usage.cost_usd for usage in (self, other) if usage.cost_usd is not None]
        return Usage(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            sum(known) if known else None,
            self.is_counted and other.is_counted,
        )


@dataclass(frozen=True)
class Embedded:
    """The answer to one call of an embedding model, verified: vectors of shape (texts, dimensions)."""

    vectors: Vectors
    usage: Usage


@dataclass(frozen=True)
class Prompt:
    """A question to a language model whose answer is to be JSON of a schema; lengths are in tokens."""

    system: str
    user: str
    # A name for the schema, letters and underscores: servers want one.
    name: str
    schema: Mapping[str, Any]
    max_output_tokens: int = 1_000
    temperature: float = 0.0


@dataclass(frozen=True)
class Completion:
    """A language model's whole answer: JSON that the provider has parsed, not yet held against the schema."""

    answer: Mapping[str, Any]
    usage: Usage


@dataclass(frozen=True)
class ModelInfo:
    """What a server tells of a model of its list; None where it does not tell. Prices are in USD a token."""

    name: str
    context_tokens: int | None = None
    input_price: float | None = None
    output_price: float | None = None


def find_model(name: str, listed: Sequence[ModelInfo]) -> ModelInfo | None:
    """Find a model in a server's list: OpenRouter's also with a way to route it, Ollama's without a tag."""
    by_name = {model.name: model for model in listed}
    names = (name, f"{name}:latest", name.rpartition(":")[0])
    return next((by_name[known] for known in names if known in by_name), None)


@dataclass(frozen=True)
class Balance:
    """What is left of a prepaid account, in USD; `remaining_usd` is None where nothing limits the key."""

    spent_usd: float
    remaining_usd: float | None


@dataclass(frozen=True)
class Limits:
    """How much one call may carry: sizes in tokens of the model, in texts, and in bytes of a request."""

    embedding_context: int = 512
    llm_context: int = 4_096
    batch_texts: int = 64
    request_bytes: int = 4 * 1024**2


@dataclass(frozen=True)
class AiConfig:
    """Which provider and models to use now: system_settings with the environment behind them."""

    provider: str
    host: str
    llm_model: str
    embedding_model: str
    # Never shown: not in a log, an error or an answer.
    key: str | None = field(default=None, repr=False)
    # Where embeddings are made, with its key, if not where answers are; empty if there.
    embedding_host: str = ""
    embedding_key: str | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)
    # In tokens; None where nobody set one: then the server's list may know it.
    embedding_context: int | None = None
    llm_context: int | None = None
    # USD a token; None where nobody set one: then the server's list may know it.
    embedding_price: float | None = None
    llm_input_price: float | None = None
    llm_output_price: float | None = None


class OneServer:
    """What a provider is that is not made of two (see `pipeline.ai.pair`)."""

    @property
    def embedder(self) -> Self:
        """Itself."""
        return self

    @property
    def analyst(self) -> Self:
        """Itself."""
        return self


class Provider(Protocol):
    """Somebody who embeds texts and answers prompts.

    Every method raises the errors of `pipeline.errors`:
    TransientError (the server is not there or refuses for now), PermanentError (this input will never work),
    FatalError (no input will: a refused key, no credit, an unknown model).
    """

    @property
    def name(self) -> str:
        """`local`, `lmstudio` or `openrouter`."""

    @property
    def embedder(self) -> "Provider":
        """Whose server embeds: this one, or one of the two that it is made of."""

    @property
    def analyst(self) -> "Provider":
        """Whose server answers, in the same way."""

    @property
    def embedding_model(self) -> str:
        """The name of the model that embeds, as it is kept with results."""

    @property
    def llm_model(self) -> str:
        """The name of the model that analyzes, as it is kept with results."""

    @property
    def limits(self) -> Limits:
        """How much one call may carry."""

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Embed n texts, none longer than the model's context, in one call; the vectors are verified."""

    async def complete(self, prompt: Prompt) -> Completion:
        """Answer a prompt in one call; an empty, truncated or refused answer is a PermanentError."""

    def succeeded_since(self, moment: float) -> bool:
        """Tell whether a call succeeded after a moment of `time.monotonic`."""

    async def llm_info(self) -> ModelInfo:
        """Say what is known of the model that analyzes: its prices as set, else as listed."""

    async def models(self) -> Sequence[ModelInfo]:
        """List the models that the server knows; empty where it does not say."""

    async def balance(self) -> Balance | None:
        """Say what is left of the account; None where the provider has no such thing."""

    async def close(self) -> None:
        """Hang up."""
