"""Calling the configured models once each, to see that they answer."""

import asyncio
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pipeline.ai import (
    AiConfig,
    Prompt,
    Provider,
    Vectors,
    at_once,
    embed_or_raise,
    open_provider,
    require_models,
    run,
)
from pipeline.ai.local import LocalProvider
from pipeline.analyze.coverage import COVERAGE_MODEL, assess_coverage
from pipeline.analyze.review import RecordText
from pipeline.errors import PipelineError, ServerError

T = TypeVar("T")

# Somebody sits before the screen and waits.
_LONGEST_SECONDS = 30.0
_TEXT = "Does the model answer?"
_QUESTION = Prompt(
    system="You answer in JSON.",
    user="How much is two and three?",
    name="sum",
    schema={
        "type": "object",
        "properties": {"sum": {"type": "integer"}},
        "required": ["sum"],
        "additionalProperties": False,
    },
    # A model that thinks wants room for its thoughts.
    max_output_tokens=800,
)


@dataclass(frozen=True)
class ModelAnswer:
    """How one of the two models did: `error` says why it did not, and then nothing else is known."""

    purpose: str
    model: str
    milliseconds: float | None = None
    detail: str | None = None
    error: str | None = None


def probe_models(config: AiConfig) -> list[ModelAnswer]:
    """Embed one text and ask one question, each once and now: also where the server is paused or busy.

    A call that succeeds ends the pause.

    Args:
        config: which provider and models.

    Raises:
        FatalError: the settings name no provider that can be used.
    """
    provider = open_provider(config)
    with at_once(ends_pause=True):
        return [_probe_embedding(provider), _probe_analysis(provider, config)]


def _probe_embedding(provider: Provider) -> ModelAnswer:
    async def ask() -> Vectors:
        await require_models(provider, embedding=True, llm=False)
        return (await provider.embed([_TEXT])).vectors

    started = time.perf_counter()
    try:
        vectors = run(_soon(ask()))
    except PipelineError as error:
        return ModelAnswer("embeddings", provider.embedding_model, error=str(error))
    return ModelAnswer(
        "embeddings", provider.embedding_model, _since(started), f"{vectors.shape[1]} dimensions"
    )


def _probe_analysis(provider: Provider, config: AiConfig) -> ModelAnswer:
    async def ask() -> Mapping[str, object]:
        await require_models(provider, embedding=False, llm=True)
        return (await provider.complete(_QUESTION)).answer

    started = time.perf_counter()
    if provider.name == "local":
        vectors = embed_or_raise(LocalProvider(config.limits), [_TEXT])
        report = assess_coverage([RecordText("probe", _TEXT, vectors[0])], ["Questions are answered."])[0]
        return ModelAnswer("analysis", COVERAGE_MODEL, _since(started), f"score {report.score}")
    try:
        answer = run(_soon(ask()))
    except PipelineError as error:
        return ModelAnswer("analysis", provider.llm_model, error=str(error))
    return ModelAnswer("analysis", provider.llm_model, _since(started), f"answers {dict(answer)}")


async def _soon(work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(_LONGEST_SECONDS):
            return await work
    except TimeoutError:
        raise ServerError(f"there was no answer within {_LONGEST_SECONDS:.0f} s") from None


def _since(started: float) -> float:
    return 1000 * (time.perf_counter() - started)
