"""Texts on their way to a model: long ones in pieces, equal ones once, never too much at a time."""

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline.ai.base import EmbeddingModel, Vectors, verify_embeddings

# How much text a model gets at a time, in characters: bounds its memory, whatever the batch.
_SLICE_CHARS = 60_000


def split_long(text: str, max_chars: int) -> list[str]:
    """Cut a text into pieces of at most `max_chars` characters, at white space where there is some."""
    pieces = []
    while len(text) > max_chars:
        # A piece shorter than half would be no gain: a text without white space is cut where it must be.
        cut = max(text.rfind(space, max_chars // 2, max_chars) for space in (" ", "\n", "\t"))
        cut = cut if cut > 0 else max_chars
        pieces.append(text[:cut])
        text = text[cut:].lstrip()
    return [*pieces, text] if text or not pieces else pieces


def embed_texts(model: EmbeddingModel, texts: Sequence[str]) -> Vectors:
    """Embed texts of any length.

    A text longer than the model takes is embedded in pieces, and the pieces' vectors are averaged by length
    and scaled to length 1. Equal texts are embedded once.

    Args:
        model: who embeds.
        texts: n texts.

    Returns:
        An array of shape (n, dimensions), in the order of the texts.

    Raises:
        PermanentError: the model's answer is not to be believed.
    """
    if not texts:
        return np.empty((0, 0))
    distinct = list(dict.fromkeys(texts))
    pieces = [split_long(text, model.max_input_chars) for text in distinct]
    flat = [piece for parts in pieces for piece in parts]
    vectors = np.concatenate(
        [verify_embeddings(model.embed(part), len(part)) for part in _slices(flat)], dtype=np.float64
    )
    joined, start = {}, 0
    for text, parts in zip(distinct, pieces, strict=True):
        joined[text] = _join(vectors[start : start + len(parts)], parts)
        start += len(parts)
    return verify_embeddings(np.stack([joined[text] for text in texts]), len(texts))


def _slices(texts: list[str]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for text in texts:
        if part and size + len(text) > _SLICE_CHARS:
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text)
    yield part


def _join(vectors: Vectors, parts: list[str]) -> Vectors:
    if len(parts) == 1:
        only: Vectors = vectors[0]
        return only
    mean = np.average(vectors, axis=0, weights=[len(part) for part in parts])
    length = np.linalg.norm(mean)
    return np.asarray(mean / length if length else mean)
