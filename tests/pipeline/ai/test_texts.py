"""Texts on their way to a model, and the answers that are not believed."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ai import embed_texts, verify_embeddings
from pipeline.ai.base import Vectors
from pipeline.ai.texts import split_long
from pipeline.errors import PermanentError


class CountingModel:
    """Answers with two numbers that tell texts apart, and remembers what it was given."""

    name = "counting"
    max_input_chars = 20

    def __init__(self) -> None:
        self.given: list[str] = []
        self.sizes: list[int] = []

    def embed(self, texts: Sequence[str]) -> Vectors:
        self.given += texts
        self.sizes.append(sum(map(len, texts)))
        return np.array([[len(text), text.count("a") + 1] for text in texts], dtype=np.float64)


@given(st.text(), st.integers(min_value=1, max_value=40))
def test_no_piece_is_too_long_and_nothing_but_white_space_is_lost(text: str, size: int) -> None:
    pieces = split_long(text, size)
    assert all(len(piece) <= size for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_a_text_is_cut_at_white_space_where_there_is_some() -> None:
    assert split_long("one two three four", 10) == ["one two", "three four"]


def test_equal_texts_are_embedded_once_and_the_order_is_kept() -> None:
    model = CountingModel()
    vectors = embed_texts(model, ["aa", "b", "aa"])
    assert model.given == ["aa", "b"]
    assert vectors.tolist() == [[2, 3], [1, 1], [2, 3]]


def test_a_long_text_is_the_mean_of_its_pieces_by_length_scaled_to_one() -> None:
    model = CountingModel()
    (vector,) = embed_texts(model, ["a" * 20 + "b" * 10])
    mean = (20 * np.array([20.0, 21.0]) + 10 * np.array([10.0, 1.0])) / 30
    assert np.allclose(vector, mean / np.linalg.norm(mean))


def test_a_model_gets_a_bounded_amount_of_text_at_a_time() -> None:
    model = CountingModel()
    vectors = embed_texts(model, [f"{number:020}" for number in range(7_000)])
    assert len(vectors) == 7_000
    assert sum(model.sizes) == 140_000
    assert max(model.sizes) <= 60_000


def test_no_text_is_no_vector() -> None:
    assert len(embed_texts(CountingModel(), [])) == 0


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
