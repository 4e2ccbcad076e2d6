"""Calling the configured models once each, to see that they answer."""

import time
from dataclasses import dataclass

from pipeline.ai import (
    AiConfig,
    Prompt,
    Provider,
    Question,
    complete_all,
    embed_or_raise,
    open_provider,
    require_models,
    run,
)
from pipeline.ai.local import LocalProvider
from pipeline.analyze.coverage import COVERAGE_MODEL, assess_coverage
from pipeline.analyze.review import RecordText
from pipeline.errors import PipelineError

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
    max_output_tokens=200,
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
    """Embed one text and ask one question.

    Args:
        config: which provider and models.

    Raises:
        FatalError: the settings name no provider that can be used.
    """
    provider = open_provider(config)
    return [_probe_embedding(provider), _probe_analysis(provider, config)]


def _probe_embedding(provider: Provider) -> ModelAnswer:
    started = time.perf_counter()
    try:
        run(require_models(provider, embedding=True, llm=False))
        vectors = embed_or_raise(provider, [_TEXT])
    except PipelineError as error:
        return ModelAnswer("embeddings", provider.embedding_model, error=str(error))
    return ModelAnswer(
        "embeddings", provider.embedding_model, _since(started), f"{vectors.shape[1]} dimensions"
    )


def _probe_analysis(provider: Provider, config: AiConfig) -> ModelAnswer:
    started = time.perf_counter()
    if provider.name == "local":
        vectors = embed_or_raise(LocalProvider(config.limits), [_TEXT])
        report = assess_coverage([RecordText("probe", _TEXT, vectors[0])], ["Questions are answered."])[0]
        return ModelAnswer("analysis", COVERAGE_MODEL, _since(started), f"score {report.score}")
    try:
        run(require_models(provider, embedding=False, llm=True))
        settled = complete_all(provider, [Question(_QUESTION, lambda completion: completion.answer)])
    except PipelineError as error:
        return ModelAnswer("analysis", provider.llm_model, error=str(error))
    failure = settled.stopped_by or settled.failures.get(0)
    if failure is not None:
        return ModelAnswer("analysis", provider.llm_model, error=str(failure))
    return ModelAnswer("analysis", provider.llm_model, _since(started), f"answers {dict(settled.results[0])}")


def _since(started: float) -> float:
    return 1000 * (time.perf_counter() - started)
