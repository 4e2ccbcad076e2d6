"""Shortening guidelines to the passages nearest to a record, where a model does not take all of them."""

from collections.abc import Sequence

import numpy as np

from pipeline.ai import Limits, Provider, Vectors, embed_or_raise, guess_tokens
from pipeline.ai.local import LocalProvider
from pipeline.guidelines import Guidelines

# Marks, numbering and line breaks around a passage, in tokens.
_PASSAGE_TOKENS = 4


# By model and passages: embedded once a process.
_vectors: dict[tuple[str, tuple[str, ...]], Vectors] = {}
_MOST_KEPT = 8


def _passage_vectors(provider: Provider, passages: tuple[str, ...]) -> Vectors:
    key = (provider.embedding_model, passages)
    if key not in _vectors:
        if len(_vectors) >= _MOST_KEPT:
            _vectors.pop(next(iter(_vectors)))
        _vectors[key] = _unit(embed_or_raise(provider, passages))
    return _vectors[key]


def choose_passages(provider: Provider, guidelines: Guidelines, record: str, *, tokens: int) -> list[str]:
    """Choose the passages of guidelines that are nearest to a record and fit, in the guidelines' order.

    Args:
        provider: who embeds, where an embedding model is set; else the built-in encoder does.
        guidelines: its rules are the passages.
        record: the record's text.
        tokens: how many tokens of the analyzing model the passages may take.

    Raises:
        PipelineError: the passages or the record could not be embedded.
    """
    embedder = provider if provider.embedding_model else LocalProvider(Limits())
    vectors = _passage_vectors(embedder, guidelines.rules)
    nearness = vectors @ _unit(embed_or_raise(embedder, [record]))[0]
    chosen: list[int] = []
    for place in np.argsort(-nearness, kind="stable"):
        size = guess_tokens(guidelines.rules[place], provider.llm_model) + _PASSAGE_TOKENS
        if size <= tokens:
            chosen.append(int(place))
            tokens -= size
    return [guidelines.rules[place] for place in sorted(chosen)]


def number_passages(passages: Sequence[str]) -> str:
    """Write passages as a numbered list."""
    return "\n".join(f"{number}. {passage}" for number, passage in enumerate(passages, start=1))


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
