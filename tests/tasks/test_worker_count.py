"""How many workers there are, for many who want to know it."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from tasks import workers
from tasks.workers import WorkerCount


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What the workers are asked, of which two are there."""
    found: list[int | None] = []

    def count(*, enough: int | None = None) -> int:
        found.append(enough)
        return 2

    monkeypatch.setattr(workers, "count_workers", count)
    return found


def test_many_who_want_to_know_are_one_question(asked: list[int | None]) -> None:
    count = WorkerCount()
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: count.read(), range(200))) == {2}
    assert asked == [None]


def test_known_ones_are_asked_whether_they_are_there_and_now_and_then_for_more(
    asked: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [0]
    # Not the clock of everything else in this process.
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: moment[0]))
    count = WorkerCount()
    for moment[0] in range(1000, 1016, 2):
        assert count.read() == 2
    assert asked == [None, 2, 2, 2, 2, 2, None, 2]


def test_a_broker_that_is_away_is_told_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    count = WorkerCount()

    def fail(*, enough: int | None = None) -> int:  # noqa: ARG001 - as it is called
        raise ConnectionError("away")

    monkeypatch.setattr(workers, "count_workers", fail)
    with pytest.raises(ConnectionError, match="away"):
        count.read()
    monkeypatch.setattr(workers, "count_workers", lambda enough=None: 3)  # noqa: ARG005 - as it is called
    monkeypatch.setattr(workers, "_REMEMBERED_SECONDS", -1.0)
    assert count.read() == 3
