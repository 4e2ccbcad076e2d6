"""Shortening guidelines to the passages nearest to a record, where a model does not take all of them."""

from collections.abc import Sequence

import numpy as np

from pipeline.ai import Limits, Provider, Settled, Vectors, embed_or_raise, embed_texts, guess_tokens
from pipeline.ai.local import LocalProvider
from pipeline.errors import PermanentError, PipelineError
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


def largest_passage(guidelines: Guidelines, model: str) -> int:
    """Give how many tokens a model needs for the longest passage: with so many the nearest always fits."""
    return max(_size(passage, model) for passage in guidelines.rules)


def choose_passages(
    provider: Provider, guidelines: Guidelines, records: Sequence[str], rooms: Sequence[int]
) -> Settled[list[str]]:
    """Choose for each record the passages of guidelines that are nearest to it and fit.

    Args:
        provider: who embeds, where an embedding model is set; else the built-in encoder does.
        guidelines: its rules are the passages.
        records: the texts of n records.
        rooms: for each record how many tokens of the analyzing model its passages may take.

    Returns:
        By the record's place the passages in the guidelines' order, or why it could not be embedded.
    """
    chosen: Settled[list[str]] = Settled()
    if not records:
        return chosen
    embedder = provider if provider.embedding_model else LocalProvider(Limits())
    try:
        vectors = _passage_vectors(embedder, guidelines.rules)
    except PermanentError as error:
        chosen.failures = dict.fromkeys(range(len(records)), error)
        return chosen
    except PipelineError as error:
        chosen.stopped_by = error
        return chosen
    embedded = embed_texts(embedder, records)
    chosen.failures, chosen.stopped_by = embedded.failures, embedded.stopped_by
    sizes = [_size(passage, provider.llm_model) for passage in guidelines.rules]
    for place, found in embedded.results.items():
        # Lengths do not matter to the order, but the passages' must be the same.
        nearest = np.argsort(-(vectors @ found.vector), kind="stable")
        places = _fitting(nearest.tolist(), sizes, rooms[place])
        chosen.results[place] = [guidelines.rules[number] for number in sorted(places)]
    return chosen


def _fitting(places: Sequence[int], sizes: Sequence[int], room: int) -> list[int]:
    fitting = []
    for place in places:
        if sizes[place] <= room:
            fitting.append(place)
            room -= sizes[place]
    return fitting


def _size(passage: str, model: str) -> int:
    return guess_tokens(passage, model) + _PASSAGE_TOKENS


def number_passages(passages: Sequence[str]) -> str:
    """Write passages as a numbered list."""
    return "\n".join(f"{number}. {passage}" for number, passage in enumerate(passages, start=1))


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
