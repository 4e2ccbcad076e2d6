"""Shortening guidelines to the passages nearest to a record, where a model does not take all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import numpy as np

from pipeline.ai import Limits, Provider, Settled, Vectors, embed_texts, guess_tokens
from pipeline.ai.local import LocalProvider
from pipeline.analyze.review import RecordText
from pipeline.errors import FatalError, PermanentError, PipelineError
from pipeline.guidelines import Guidelines, split_passages

# The line breaks around a passage, in tokens.
_PASSAGE_TOKENS = 4
_MOST_KEPT = 8


@dataclass(frozen=True)
class _Index:
    """Embedded passages: vectors of shape (n, dimensions) and length 1, zeros for those that were refused."""

    vectors: Vectors
    refused: Sequence[int]

    @property
    def dimensions(self) -> int:
        return int(self.vectors.shape[1])

    def nearest(self, vector: Vectors) -> list[int]:
        """Give the places of all passages, the nearest first and those that were refused last."""
        # The length of the one vector does not matter to the order.
        similarities = self.vectors @ vector
        similarities[self.refused] = -np.inf
        return [int(place) for place in np.argsort(-similarities, kind="stable")]


# Embedded once a process. By the provider itself and not by its model's name: other settings, such as
# another host, make another provider, and a model of the same name there may be another.
_kept: WeakKeyDictionary[Provider, dict[tuple[str, ...], _Index]] = WeakKeyDictionary()


@cache
def _built_in() -> Provider:
    return LocalProvider(Limits())


def embedder_of(provider: Provider) -> Provider:
    """Give who embeds where a provider analyzes: it does if an embedding model is set, else the built-in."""
    return provider if provider.embedding_model else _built_in()


def largest_passage(guidelines: Guidelines, model: str) -> int:
    """Give how many tokens a model needs for the longest passage: with so many the nearest always fits."""
    return max(_size(passage, model) for passage in split_passages(guidelines.text))


def choose_passages(
    provider: Provider, guidelines: Guidelines, records: Sequence[RecordText], rooms: Sequence[int]
) -> Settled[list[str]]:
    """Choose for each record the passages of guidelines that are nearest to it and fit.

    A passage that cannot be embedded is chosen last.

    Args:
        provider: who analyzes; who embeds is `embedder_of` it.
        guidelines: the passages are those of its text.
        records: n records; an embedding that they bring is used if it is as long as the passages'.
        rooms: for each record how many tokens of the analyzing model its passages may take.

    Returns:
        By the record's place the passages in the guidelines' order, or why it could not be embedded.
    """
    if not records:
        return Settled()
    passages = split_passages(guidelines.text)
    try:
        index, embedded = _embed(embedder_of(provider), passages, records)
    except PermanentError as error:
        return Settled(failures=dict.fromkeys(range(len(records)), error))
    except PipelineError as error:
        return Settled(stopped_by=error)
    chosen: Settled[list[str]] = Settled(failures=embedded.failures, stopped_by=embedded.stopped_by)
    sizes = [_size(passage, provider.llm_model) for passage in passages]
    for place, vector in embedded.results.items():
        places = _fitting(index.nearest(vector), sizes, rooms[place])
        chosen.results[place] = [passages[number] for number in sorted(places)]
    return chosen


def _embed(
    embedder: Provider, passages: tuple[str, ...], records: Sequence[RecordText]
) -> tuple[_Index, Settled[Vectors]]:
    """Embed passages and records so that they can be compared.

    Raises:
        PermanentError: no passage can be embedded.
        TransientError, FatalError: nobody can embed now.
    """
    for _ in range(2):
        index = _index(embedder, passages)
        embedded = _embed_records(embedder, records, index.dimensions)
        if all(len(vector) == index.dimensions for vector in embedded.results.values()):
            return index, embedded
        # Another model has the name since the passages were embedded.
        _kept.get(embedder, {}).pop(passages, None)
    raise FatalError(
        f"{embedder.embedding_model!r} answers now with {index.dimensions} dimensions and now with others: "
        "more than one model answers to this name. See that the server runs one"
    )


def _index(embedder: Provider, passages: tuple[str, ...]) -> _Index:
    known = _kept.setdefault(embedder, {})
    if passages not in known:
        found = _embed_passages(embedder, passages)
        if len(known) >= _MOST_KEPT:
            known.pop(next(iter(known)))
        known[passages] = found
    return known[passages]


def _embed_passages(embedder: Provider, passages: tuple[str, ...]) -> _Index:
    embedded = embed_texts(embedder, passages)
    if embedded.stopped_by is not None:
        raise embedded.stopped_by
    if not embedded.results:
        raise embedded.failures[0]
    dimensions = len(next(iter(embedded.results.values())).vector)
    vectors = np.zeros((len(passages), dimensions), dtype=np.float32)
    for place, found in embedded.results.items():
        # The mean of a long text's pieces may be nothing at all.
        vectors[place] = found.vector / (np.linalg.norm(found.vector) or 1.0)
    return _Index(vectors, sorted(embedded.failures))


def _embed_records(embedder: Provider, records: Sequence[RecordText], dimensions: int) -> Settled[Vectors]:
    found: Settled[Vectors] = Settled()
    missing = []
    for place, record in enumerate(records):
        own = record.usable_embedding(dimensions)
        if own is None:
            missing.append(place)
        else:
            found.results[place] = own
    if missing:
        embedded = embed_texts(embedder, [records[place].content for place in missing])
        found.results |= {missing[place]: entry.vector for place, entry in embedded.results.items()}
        found.failures = {missing[place]: error for place, error in embedded.failures.items()}
        found.stopped_by = embedded.stopped_by
    return found


def _fitting(places: Sequence[int], sizes: Sequence[int], room: int) -> list[int]:
    fitting = []
    for place in places:
        if sizes[place] <= room:
            fitting.append(place)
            room -= sizes[place]
    return fitting


def _size(passage: str, model: str) -> int:
    return guess_tokens(passage, model) + _PASSAGE_TOKENS


def join_passages(passages: Sequence[str]) -> str:
    """Write passages one below the other."""
    return "\n\n".join(passages)
