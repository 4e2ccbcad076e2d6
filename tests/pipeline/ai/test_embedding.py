"""Texts on their way to a model: in pieces, in batches, each with its own vector or its own error."""

import asyncio
import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.ai import Completion, Limits, Prompt, Usage, embed_or_raise, embed_texts, guess_tokens
from pipeline.ai.answers import verify_embeddings
from pipeline.ai.base import Balance, Embedded, ModelInfo, OneServer, Vectors
from pipeline.ai.embedding import split_long
from pipeline.errors import FatalError, PermanentError, PipelineError, ServerError


class CountingProvider(OneServer):
    """Answers with two numbers that tell texts apart, and remembers what it was given.

    Args:
        context: tokens that it takes; a token is three characters here, as the guess is.
        poison: texts that make a whole call fail.
        error: what it fails with then.
        fails_after: calls after which all are refused; None for never.
    """

    name = "counting"
    llm_model = ""

    def __init__(
        self,
        *,
        context: int = 1_000_000,
        poison: Sequence[str] = (),
        error: PipelineError | None = None,
        fails_after: int | None = None,
    ) -> None:
        self.embedding_model = f"counting-{id(self)}"
        self.limits = Limits(embedding_context=context)
        self.calls: list[list[str]] = []
        self._poison, self._fails_after = frozenset(poison), fails_after
        self._error = error or _coded("HTTP_400")
        self._succeeded_at = -math.inf

    async def embed(self, texts: Sequence[str]) -> Embedded:
        self.calls.append(list(texts))
        if self._fails_after is not None and len(self.calls) > self._fails_after:
            raise FatalError("no credit")
        if self._poison.intersection(texts):
            raise self._error
        self._succeeded_at = time.monotonic()
        return Embedded(np.array([_vector(text) for text in texts]), Usage(calls=1))

    async def complete(self, prompt: Prompt) -> Completion:
        raise NotImplementedError(prompt.name)

    def succeeded_since(self, moment: float) -> bool:
        return self._succeeded_at > moment

    async def llm_info(self) -> ModelInfo:
        return ModelInfo("")

    async def models(self) -> Sequence[ModelInfo]:
        return []

    async def balance(self) -> Balance | None:
        return None

    async def close(self) -> None:
        """Nothing is open."""


def _vector(text: str) -> list[float]:
    return [float(len(text)), text.count("a") + 1.0]


def _coded(code: str) -> PermanentError:
    error = PermanentError("cannot take this")
    error.code = code
    return error


@given(st.text(), st.integers(min_value=1, max_value=40))
def test_no_piece_is_too_long_and_nothing_but_white_space_is_lost(text: str, size: int) -> None:
    pieces = split_long(text, size)
    assert all(len(piece) <= size for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_a_text_is_cut_at_white_space_where_there_is_some() -> None:
    assert split_long("one two three four", 10) == ["one two", "three four"]


def test_equal_texts_are_embedded_once_and_the_order_is_kept() -> None:
    provider = CountingProvider()
    assert embed_or_raise(provider, ["aa", "b", "aa"]).tolist() == [[2, 3], [1, 1], [2, 3]]
    assert provider.calls == [["aa", "b"]]


def test_a_long_text_is_the_mean_of_its_pieces_by_length_scaled_to_one() -> None:
    provider = CountingProvider(context=8)
    text = "a" * 21 + " " + "b" * 9
    found = embed_texts(provider, [text]).results[0]
    pieces = [piece for call in provider.calls for piece in call]
    assert " ".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert len(pieces) == found.pieces == 2
    mean = np.average([_vector(piece) for piece in pieces], axis=0, weights=[len(piece) for piece in pieces])
    assert np.allclose(found.vector, mean / np.linalg.norm(mean))


def test_a_call_carries_a_bounded_number_of_texts_and_of_characters() -> None:
    provider = CountingProvider()
    texts = [f"{number:020}" for number in range(500)] + [f"{number:0100000}" for number in range(9)]
    assert len(embed_or_raise(provider, texts)) == 509
    assert max(map(len, provider.calls)) == 64
    assert max(sum(map(len, call)) for call in provider.calls) <= 400_000


def test_no_text_is_no_vector_and_no_call() -> None:
    provider = CountingProvider()
    assert not embed_texts(provider, []).results
    assert not provider.calls


@settings(deadline=None, max_examples=60)
@given(
    st.sets(st.integers(min_value=0, max_value=149), max_size=12), st.sampled_from(["HTTP_400", "HTTP_422"])
)
def test_each_bad_text_fails_by_itself_and_costs_few_calls(bad: set[int], code: str) -> None:
    texts = [f"text {number}" for number in range(150)]
    provider = CountingProvider(poison=[texts[place] for place in bad], error=_coded(code))
    settled = embed_texts(provider, texts)
    assert settled.stopped_by is None
    assert settled.failures.keys() == bad
    assert {error.code for error in settled.failures.values()} <= {code}
    assert settled.results.keys() == set(range(150)) - bad
    for place, found in settled.results.items():
        assert found.vector.tolist() == _vector(texts[place])
    # Halving a batch of 64 takes at most two calls a level and bad text.
    assert len(provider.calls) <= 3 + len(bad) * 2 * math.ceil(math.log2(64))


def test_a_fault_of_the_server_that_stays_with_one_text_is_that_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.ai.retries._PAUSE_SECONDS", 0.0)
    provider = CountingProvider(poison=["text 3"], error=ServerError("500", status=500))
    settled = embed_texts(provider, [f"text {number}" for number in range(8)])
    assert settled.results.keys() == {0, 1, 2, 4, 5, 6, 7}
    assert settled.failures[3].code == "SERVER_ERROR"


def test_what_was_embedded_before_the_work_was_stopped_is_kept() -> None:
    provider = CountingProvider(fails_after=2)
    settled = embed_texts(provider, [f"text {number}" for number in range(320)])
    assert isinstance(settled.stopped_by, FatalError)
    assert len(settled.results) == 128
    assert not settled.failures
    # The three calls that were under way or about to be, and not one for each batch that was left.
    assert len(provider.calls) <= 5


def test_a_server_in_trouble_stops_the_work_and_fails_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ai.retries._PAUSE_SECONDS", 0.0)
    provider = CountingProvider(poison=["text 3", "a text"], error=ServerError("hung up"))
    settled = embed_texts(provider, [f"text {number}" for number in range(8)])
    assert isinstance(settled.stopped_by, ServerError)
    assert not settled.failures


def test_a_text_that_is_refused_for_its_length_is_tried_in_pieces() -> None:
    class Short(CountingProvider):
        """Takes no more than 500 characters, and does not say so beforehand."""

        async def embed(self, texts: Sequence[str]) -> Embedded:
            if any(len(text) > 500 for text in texts):
                raise _coded("HTTP_400")
            return await super().embed(texts)

    settled = embed_texts(Short(), ["word " * 300, "short"])
    assert settled.results[0].pieces == 4
    assert settled.results[1].pieces == 1


def test_what_one_half_of_a_refused_batch_was_answered_is_kept_when_the_other_stops_the_work() -> None:
    class Uneven(CountingProvider):
        """Refuses all at once, and the first half for ever."""

        async def embed(self, texts: Sequence[str]) -> Embedded:
            if len(texts) == 8:
                raise _coded("HTTP_400")
            await asyncio.sleep(0.02 if "text 0" in texts else 0.1)
            if "text 0" in texts:
                raise FatalError("no credit")
            return await super().embed(texts)

    settled = embed_texts(Uneven(), [f"text {number}" for number in range(8)])
    assert isinstance(settled.stopped_by, FatalError)
    assert settled.results.keys() == {4, 5, 6, 7}


@example("word " * 600 + "漢字" * 500, 512)
@given(st.text(alphabet="ab c漢字", max_size=300), st.integers(min_value=1, max_value=40))
def test_no_piece_has_more_tokens_than_the_model_takes_whatever_its_script(text: str, context: int) -> None:
    provider = CountingProvider(context=context)
    embed_texts(provider, [text])
    pieces = [piece for call in provider.calls for piece in call]
    assert all(guess_tokens(piece) <= context or len(piece) == 1 for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_half_a_character_is_the_fault_of_its_text_alone() -> None:
    settled = embed_texts(CountingProvider(), ["one", "\ud800", "two"])
    assert settled.results.keys() == {0, 2}
    assert settled.failures[1].code == "INVALID_INPUT"


def test_a_model_that_counts_more_tokens_than_guessed_is_given_shorter_pieces() -> None:
    class Counted(CountingProvider):
        """A token a character."""

        async def embed(self, texts: Sequence[str]) -> Embedded:
            embedded = await super().embed(texts)
            return Embedded(embedded.vectors, Usage(1, sum(map(len, texts))))

    provider = Counted(context=100)
    assert embed_texts(provider, ["word " * 50]).results[0].pieces == 1
    assert embed_texts(provider, ["word " * 50]).results[0].pieces > 1


def test_no_request_is_larger_than_the_limit() -> None:
    provider = CountingProvider()
    provider.limits = Limits(embedding_context=1_000_000, request_bytes=2_000)
    embed_texts(provider, [f"{number} " + "é" * 300 for number in range(20)])
    assert max(sum(len(text.encode()) for text in call) for call in provider.calls) <= 2_000
    assert len(provider.calls) == 7


def test_whoever_embeds_knows_what_the_model_takes_also_where_nobody_planned() -> None:
    class Listing(CountingProvider):
        """Says what it takes when it is asked for its list."""

        async def models(self) -> Sequence[ModelInfo]:
            self.limits = Limits(embedding_context=50)
            return []

    assert embed_texts(Listing(), ["word " * 100]).results[0].pieces > 1


def test_a_list_that_cannot_be_had_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(CountingProvider):
        """Never lists its models."""

        asked = 0

        async def models(self) -> Sequence[ModelInfo]:
            self.asked += 1
            await asyncio.sleep(60.0)
            return []

    monkeypatch.setattr("pipeline.ai.embedding._LIST_SECONDS", 0.05)
    provider = Silent()
    for text in ("one", "two"):
        assert embed_texts(provider, [text]).results.keys() == {0}
    assert provider.asked == 1


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        (np.ones((1, 3)), "shape"),
        (np.ones((2, 3, 4)), "shape"),
        (np.ones((2, 0)), "shape"),
        (np.array([[1.0, np.nan], [1.0, 1.0]]), "not finite"),
        (np.array([[1.0, np.inf], [1.0, 1.0]]), "not finite"),
        (np.array([[0.0, 0.0], [1.0, 1.0]]), "zeros"),
    ],
)
def test_an_answer_that_cannot_be_is_refused(vectors: Vectors, reason: str) -> None:
    with pytest.raises(PermanentError, match=reason):
        verify_embeddings(vectors, 2)
