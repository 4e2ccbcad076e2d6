"""Questions of many threads at the same time."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.together import Together


class Slow:
    """Looks up numbers while it is let; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Sequence[int]] = []
        self.may_answer = threading.Event()
        self.is_asked = threading.Event()
        self.error: Exception | None = None

    def __call__(self, keys: Sequence[int]) -> Mapping[int, str]:
        self.asked.append(sorted(keys))
        self.is_asked.set()
        self.may_answer.wait(10)
        if self.error is not None:
            raise self.error
        return {key: str(key) for key in keys if key < 100}


def test_who_comes_meanwhile_is_asked_for_by_the_next_question() -> None:
    slow = Slow()
    together = Together(slow)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together.find, 1)
        assert slow.is_asked.wait(10)
        # The one under way may have been answered before they came: it is not theirs.
        others = [pool.submit(together.find, key) for key in (1, 2, 3, 3, 200)]
        while sum(len(batch) for batch in [together._next.keys]) < 4:
            pass
        slow.may_answer.set()
        assert first.result(10) == "1"
        assert [other.result(10) for other in others] == ["1", "2", "3", "3", None]
    assert slow.asked == [[1], [1, 2, 3, 200]]


def test_an_error_is_told_to_everybody_whose_question_it_was() -> None:
    slow = Slow()
    slow.error = RuntimeError("away")
    slow.may_answer.set()
    together = Together(slow)
    with pytest.raises(RuntimeError, match="away"):
        together.find(1)
    slow.error = None
    assert together.find(1) == "1"
