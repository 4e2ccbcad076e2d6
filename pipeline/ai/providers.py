"""Which provider the settings name, and whether it can do what a stage needs."""

import os
from collections.abc import Sequence
from dataclasses import replace

from pipeline.ai.base import AiConfig, ModelInfo, Provider, find_model
from pipeline.ai.local import LocalProvider
from pipeline.ai.loop import run
from pipeline.ai.openai import EmbeddingProvider, OpenAiProvider, OpenRouterProvider
from pipeline.ai.pair import ProviderPair
from pipeline.errors import FatalError

# By their settings, which change rarely; a provider keeps its connections. Another thread may still be using
# one whose settings are no longer those of now, so that the oldest goes when there are too many.
_kept: dict[AiConfig, Provider] = {}
_MOST_KEPT = 4
_MOST_NAMED = 8


def open_provider(config: AiConfig) -> Provider:
    """Give the provider that the settings name; the same one as long as they do not change.

    Raises:
        FatalError: OpenRouter without a key; says what to set.
    """
    provider = _kept.get(config)
    if provider is None:
        provider = _make(config)
        _kept[config] = provider
        if len(_kept) > _MOST_KEPT:
            run(_kept.pop(next(iter(_kept))).close())
    return provider


def close_providers() -> None:
    """Hang up on all servers; the next call connects again."""
    while _kept:
        run(_kept.popitem()[1].close())


def _make(config: AiConfig) -> Provider:
    if config.provider == "local":
        return LocalProvider(config.limits)
    analyst = _make_analyst(config)
    if not config.embedding_host:
        return analyst
    own = replace(config, host=config.embedding_host, key=config.embedding_key)
    return ProviderPair(EmbeddingProvider(own), analyst)


def _make_analyst(config: AiConfig) -> Provider:
    if config.provider == "openrouter":
        if not config.key:
            raise FatalError("OpenRouter wants a key: set it with `opspipe settings set openrouter_key -`")
        return OpenRouterProvider(config)
    return OpenAiProvider(config)


async def require_models(provider: Provider, *, embedding: bool, llm: bool) -> None:
    """See that the provider lists the models that are set: some servers answer to any name.

    Raises:
        FatalError: a model is not set or not listed; says which are.
        TransientError: the server is not there for the moment.
    """
    wanted = []
    if embedding:
        wanted.append(("embedding_model", provider.embedding_model, provider.embedder))
    if llm:
        wanted.append(("llm_model", provider.llm_model, provider.analyst))
    for setting, model, _ in wanted:
        if not model:
            raise FatalError(f"no model is set: say which with `opspipe settings set {setting} NAME`")
    for setting, model, server in wanted:
        listed = await server.models()
        if listed and find_model(model, listed) is None:
            raise FatalError(
                f"the server does not list the model {model!r}: `opspipe settings set {setting} NAME` with "
                f"one of {_names(listed)}"
            )


def _names(listed: Sequence[ModelInfo]) -> str:
    names = sorted(info.name for info in listed)
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _forget() -> None:
    _kept.clear()


os.register_at_fork(after_in_child=_forget)
