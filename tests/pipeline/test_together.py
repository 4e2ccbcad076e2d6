"""Questions of many threads at the same time."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.errors import TransientError
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


def test_what_is_wrong_with_one_is_told_to_nobody_else() -> None:
    asked: list[Sequence[int]] = []
    first_asked, may_answer = threading.Event(), threading.Event()

    def ask(keys: Sequence[int]) -> Mapping[int, str]:
        asked.append(sorted(keys))
        first_asked.set()
        may_answer.wait(10)
        if 13 in keys:
            raise ValueError("no such state")
        return {key: str(key) for key in keys}

    together = Together(ask)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(together.find, 1)
        assert first_asked.wait(10)
        others = {key: pool.submit(together.find, key) for key in (2, 13)}
        while len(together._next.keys) < 2:
            pass
        may_answer.set()
        assert first.result(10) == "1"
        assert others[2].result(10) == "2"
        with pytest.raises(ValueError, match="no such state"):
            others[13].result(10)
    assert asked[:2] == [[1], [2, 13]]


def test_who_waits_too_long_for_others_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.together._PATIENCE_SECONDS", 0.05)
    slow = Slow()
    together = Together(slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(together.find, 1)
        assert slow.is_asked.wait(10)
        with pytest.raises(TransientError, match="in time"):
            together.find(2)
        slow.may_answer.set()
        assert first.result(10) == "1"
