"""Embedding many texts: long ones in pieces, equal ones once, many calls at once, a bad one by itself."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from pipeline.ai.base import Provider, Vectors
from pipeline.ai.loop import run
from pipeline.ai.retries import TRIES_IF_SLOW, Probe, SlowInputError, call_again
from pipeline.ai.settled import Settled, work_on_all, work_side_by_side
from pipeline.ai.tokens import chars_within, guess_tokens, learn
from pipeline.errors import FatalError, InputError, PermanentError, PipelineError

_MOST_REQUEST_TOKENS = 100_000
# A single text that a server refuses may be longer than its model takes: it is tried in halves down to this.
_SHORTEST_PIECE = 200
# A list of models that is not there by then is done without, for so long.
_LIST_SECONDS, _ASK_AGAIN_SECONDS = 10.0, 300.0
_not_listed: "WeakKeyDictionary[Provider, float]" = WeakKeyDictionary()
_SPACES = (" ", "\n", "\t")


@dataclass(frozen=True)
class TextVector:
    """A text's embedding, shape (dimensions,), and from how many pieces of the text it was made."""

    vector: Vectors
    pieces: int = 1


def split_long(text: str, max_chars: int) -> list[str]:
    """Cut a text into pieces of at most `max_chars` characters, at white space where there is some."""
    pieces = []
    while len(text) > max_chars:
        # A piece shorter than half would be no gain: a text without white space is cut where it must be.
        cut = max(text.rfind(space, max_chars // 2, max_chars) for space in _SPACES)
        cut = cut if cut > 0 else max_chars
        pieces.append(text[:cut])
        text = text[cut:].lstrip()
    return [*pieces, text] if text or not pieces else pieces


def embed_texts(provider: Provider, texts: Sequence[str]) -> Settled[TextVector]:
    """Embed texts of any length.

    A text longer than the model takes is embedded in pieces, and the pieces' vectors are averaged by length
    and scaled to length 1. Equal texts are embedded once. A text that the model refuses fails by itself.

    Args:
        provider: who embeds.
        texts: n texts.

    Returns:
        A vector or an error for each place of a text; where the work was stopped, those of a part of them.
    """
    return run(_embed(provider, texts))


def embed_or_raise(provider: Provider, texts: Sequence[str]) -> Vectors:
    """Embed n texts as an array of shape (n, dimensions), or say why one could not be.

    Raises:
        PipelineError: what stopped the work, or the first text's error.
    """
    settled = embed_texts(provider, texts)
    if settled.stopped_by is not None:
        raise settled.stopped_by
    for place in sorted(settled.failures):
        raise settled.failures[place]
    return np.stack([settled.results[place].vector for place in range(len(texts))]).astype(np.float64)


async def _embed(provider: Provider, texts: Sequence[str]) -> Settled[TextVector]:
    provider = provider.embedder
    places: dict[str, list[int]] = {}
    settled: Settled[TextVector] = Settled()
    for place, text in enumerate(texts):
        if _is_unicode(text):
            places.setdefault(text, []).append(place)
        else:
            settled.failures[place] = InputError("the text holds half of a character, which no model takes")
    if places:
        await _ask_for_limits(provider)
    work = _Embedding(provider, list(places))
    await work_on_all(list(work.batches()), work.settle, work.pieces)
    found = work.join()
    settled.stopped_by = found.stopped_by
    for number, same in enumerate(places.values()):
        for place in same:
            if number in found.results:
                settled.results[place] = found.results[number]
            elif number in found.failures:
                settled.failures[place] = found.failures[number]
    return settled


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


async def _ask_for_limits(provider: Provider) -> None:
    """Have the provider know what its models take and cost, as far as their server says so.

    Where the list cannot be had the work goes on without it, and it is not asked for again for a while.
    """
    if time.monotonic() - _not_listed.get(provider, float("-inf")) < _ASK_AGAIN_SECONDS:
        return
    try:
        async with asyncio.timeout(_LIST_SECONDS):
            await provider.models()
    except (PipelineError, TimeoutError):
        _not_listed[provider] = time.monotonic()


@dataclass(frozen=True)
class _Piece:
    number: int
    text: str


class _Embedding:
    """The pieces of distinct texts on their way through a model."""

    def __init__(self, provider: Provider, texts: Sequence[str]) -> None:
        self._provider, self._limits = provider, provider.limits
        self._model = provider.embedding_model
        self._probe = Probe(provider, lambda: provider.embed(["a text"]))
        self._parts: list[list[_Piece]] = []
        count = 0
        for text in texts:
            parts = [_Piece(count + place, part) for place, part in enumerate(self._split(text))]
            self._parts.append(parts)
            count += len(parts)
        self.pieces: Settled[TextVector] = Settled()
        self._dimensions: int | None = None

    def _split(self, text: str) -> list[str]:
        context = self._limits.embedding_context
        if len(text) <= 1 or guess_tokens(text, self._model) <= context:
            return [text]
        pieces = split_long(text, chars_within(text, context, self._model))
        # A piece may be denser than the whole.
        return [part for piece in pieces for part in self._split(piece)]

    def batches(self) -> Iterator[list[_Piece]]:
        """Give the pieces in requests that are neither too many texts, nor too large."""
        batch: list[_Piece] = []
        size = tokens = 0
        for piece in (piece for parts in self._parts for piece in parts):
            piece_size, piece_tokens = len(piece.text.encode()) + 8, guess_tokens(piece.text, self._model)
            if batch and (
                len(batch) >= self._limits.batch_texts
                or size + piece_size > self._limits.request_bytes
                or tokens + piece_tokens > _MOST_REQUEST_TOKENS
            ):
                yield batch
                batch, size, tokens = [], 0, 0
            batch.append(piece)
            size += piece_size
            tokens += piece_tokens
        if batch:
            yield batch

    async def settle(self, batch: list[_Piece]) -> None:
        """Give each piece of a batch its vector or its error; a batch that is refused is halved.

        A batch that is not answered in time falls into its pieces at once: each half would be waited for.
        """
        try:
            await self._try(batch, tries_if_slow=TRIES_IF_SLOW if len(batch) == 1 else 1)
        except PermanentError as error:
            if len(batch) == 1:
                await self._settle_one(batch[0], error)
            elif isinstance(error, SlowInputError):
                await work_side_by_side(batch, self._settle_slow, self.pieces)
            else:
                middle = len(batch) // 2
                await work_side_by_side((batch[:middle], batch[middle:]), self.settle, self.pieces)

    async def _settle_slow(self, piece: _Piece) -> None:
        # Its batch was its first try.
        try:
            await self._try([piece], tries_if_slow=TRIES_IF_SLOW - 1)
        except PermanentError as error:
            await self._settle_one(piece, error)

    async def _try(self, batch: list[_Piece], *, tries_if_slow: int) -> None:
        vectors = await self._call([piece.text for piece in batch], tries_if_slow=tries_if_slow)
        for piece, vector in zip(batch, vectors, strict=True):
            self.pieces.results[piece.number] = TextVector(vector)

    async def _settle_one(self, piece: _Piece, error: PermanentError) -> None:
        halves = split_long(piece.text, max(len(piece.text) // 2 + 1, _SHORTEST_PIECE))
        if not _may_be_length(error) or len(halves) == 1:
            self.pieces.failures[piece.number] = error
            return
        try:
            joined = await self._embed_halves(halves)
        except PermanentError:
            # The first error is that of the whole text, which says most.
            self.pieces.failures[piece.number] = error
        else:
            self.pieces.results[piece.number] = joined

    async def _embed_halves(self, texts: list[str]) -> TextVector:
        found = []
        for text in texts:
            try:
                found.append(TextVector((await self._call([text]))[0]))
            except PermanentError as error:
                halves = split_long(text, max(len(text) // 2 + 1, _SHORTEST_PIECE))
                if not _may_be_length(error) or len(halves) == 1:
                    raise
                found.append(await self._embed_halves(halves))
        return _join(found, texts)

    async def _call(self, texts: list[str], *, tries_if_slow: int = TRIES_IF_SLOW) -> Vectors:
        embedded = await call_again(
            lambda: self._provider.embed(texts), self._probe, tries_if_slow=tries_if_slow
        )
        if embedded.usage.is_counted:
            learn(self._model, texts, embedded.usage.input_tokens)
        dimensions = embedded.vectors.shape[1]
        self._dimensions = self._dimensions or dimensions
        if dimensions != self._dimensions:
            raise FatalError(
                f"{self._model!r} answered with {dimensions} dimensions after {self._dimensions}: more than "
                "one model answers to this name. See that the server runs one"
            )
        return embedded.vectors

    def join(self) -> Settled[TextVector]:
        """Put the pieces of each text together."""
        settled: Settled[TextVector] = Settled(stopped_by=self.pieces.stopped_by)
        for number, parts in enumerate(self._parts):
            failed = next(
                (
                    self.pieces.failures.get(part.number)
                    for part in parts
                    if part.number in self.pieces.failures
                ),
                None,
            )
            if failed is not None:
                settled.failures[number] = failed
            elif all(part.number in self.pieces.results for part in parts):
                found = [self.pieces.results[part.number] for part in parts]
                settled.results[number] = _join(found, [part.text for part in parts])
        return settled


def _may_be_length(error: PermanentError) -> bool:
    return error.code in {"HTTP_400", "HTTP_413", "HTTP_422", "SERVER_ERROR"}


def _join(found: Sequence[TextVector], texts: Sequence[str]) -> TextVector:
    if len(found) == 1:
        return found[0]
    mean = np.average([part.vector for part in found], axis=0, weights=[len(text) for text in texts])
    length = np.linalg.norm(mean)
    return TextVector(np.asarray(mean / length if length else mean), sum(part.pieces for part in found))
