"""Near-duplicates of one person whose tasks are many and alike: which are kept, how fast, in what memory."""

import time
import tracemalloc
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ingest.submit import Submission
from pipeline.projects import ProjectRef
from pipeline.similarity import nearest_records
from pipeline.similarity.compare import _BLOCK_BYTES, _by_person, _NewTasks
from pipeline.similarity.flags import Pairs
from pipeline.similarity.stream import Batch
from tests.pipeline.vectors import store_vectors

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]


class Tasks:
    """Tasks of one person in order of time, as the database gives them."""

    def __init__(self, vectors: NDArray[np.float64], *, new_share: float = 1.0) -> None:
        random = np.random.default_rng(2)
        count = len(vectors)
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self.is_new = random.random(count) < new_share
        # Many at the same moment, in order of their ids.
        moments = np.sort(random.integers(0, 20, count)).astype(float)
        self.rows = [
            (f"c{place:024}", "a@x.org", moment, bool(is_new))
            for place, (moment, is_new) in enumerate(zip(moments, self.is_new, strict=True))
        ]

    def batches(self, places: NDArray[np.intp], size: int) -> Iterator[Batch]:
        """Give some of them in batches."""
        for start in range(0, len(places), size):
            part = places[start : start + size]
            yield Batch([self.rows[place] for place in part], self.vectors[part])

    def find(self, *, threshold: float, size: int) -> Pairs:
        """Compare the new ones with all."""
        new = _NewTasks(self.batches(np.flatnonzero(self.is_new), size))
        for batch in self.batches(np.arange(len(self.rows)), size):
            for person, tasks in _by_person(batch):
                new.compare(person, tasks, threshold)
        return new.pairs()

    def brute_force(self, *, threshold: float, most: int) -> dict[tuple[str, str], float]:
        """Do the same one by one."""
        pairs = {}
        products = np.round(self.vectors @ self.vectors.T, 12)
        for own in np.flatnonzero(self.is_new).tolist():
            others = [
                other
                for other in range(len(self.rows))
                if other != own
                and products[own, other] >= threshold
                and (other < own or not self.is_new[other])
            ]
            for other in sorted(others, key=lambda other, own=own: (-products[own, other], other))[:most]:
                pair = self.rows[max(own, other)][0], self.rows[min(own, other)][0]
                pairs[pair] = min(1.0, float(products[own, other]))
        return pairs


@pytest.mark.parametrize("block_bytes", [1, 3_000, _BLOCK_BYTES])
@pytest.mark.parametrize("size", [1, 7, 1_000])
@pytest.mark.parametrize("most", [1, 5, 1_000])
def test_the_nearest_of_each_task_are_kept_and_of_equally_near_ones_the_first(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int, size: int, most: int
) -> None:
    monkeypatch.setattr("pipeline.similarity.compare._BLOCK_BYTES", block_bytes)
    monkeypatch.setattr("pipeline.similarity.compare._MOST_A_RECORD", most)
    vectors = np.random.default_rng(4).integers(-2, 3, (160, 4)) + 0.5
    tasks = Tasks(vectors, new_share=0.6)
    found = tasks.find(threshold=0.4, size=size)
    wanted = tasks.brute_force(threshold=0.4, most=most)
    assert len(wanted) >= 90 * min(most, 30)
    pairs = dict(
        zip(zip(found.record_ids, found.similar_ids, strict=True), found.similarities.tolist(), strict=True)
    )
    assert len(found.record_ids) == len(pairs)
    assert pairs == pytest.approx(wanted, abs=1e-11)


def alike(count: int) -> Tasks:
    """Make tasks that are all nearly the same."""
    random = np.random.default_rng(1)
    return Tasks(random.standard_normal(384) + 0.001 * random.standard_normal((count, 384)))


def test_thousands_of_tasks_that_are_alike_take_seconds() -> None:
    tasks = alike(3_000)
    start = time.thread_time()
    found = tasks.find(threshold=0.9, size=2_000)
    assert len(found.record_ids) == sum(min(50, place) for place in range(3_000))
    assert time.thread_time() - start < 5


@pytest.mark.parametrize("tasks", [alike(3_000), Tasks(np.ones((3_000, 384)))], ids=["alike", "equal"])
def test_what_is_found_and_what_it_takes_is_small(tasks: Tasks) -> None:
    tracemalloc.start()
    try:
        found = tasks.find(threshold=0.9, size=1_000)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 40 * len(found.record_ids)
    # A block with its copies, and the new tasks' vectors twice.
    assert peak < 6 * _BLOCK_BYTES + 2 * tasks.vectors.nbytes


def test_a_task_whose_time_changes_meanwhile_is_not_like_itself() -> None:
    vectors = np.ones((1, 3)) / np.sqrt(3)
    new = _NewTasks(iter([Batch([("c1", "a@x.org", 5.0, True)], vectors)]))
    for person, tasks in _by_person(Batch([("c1", "a@x.org", 3.0, True)], vectors)):
        new.compare(person, tasks, 0.9)
    assert len(new.pairs().record_ids) == 0


@pytest.mark.usefixtures("use_ai_server")
def test_a_chunk_has_no_more_tasks_than_memory_holds_with_what_is_found(
    session: Session, submit: Submit, run_all: RunAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.similarity.compare._LEAST_CHUNK", 1)
    # Vectors of sixteen numbers take a fraction of what fifty others of each take.
    monkeypatch.setattr("pipeline.similarity.compare._NEW_BYTES", 100_000)
    monkeypatch.setattr("pipeline.similarity.flags._KEPT_AT_ONCE", 17)
    lines = "".join(f"feed the cat,{'many' if number % 2 else number}@x.org\n" for number in range(90))
    run_all(submit("prompt,created_by_email\n" + lines, embed=True))
    counts = session.scalars(
        text("SELECT record_count FROM work_chunks WHERE stage = 'compare' AND number > 0")
    ).all()
    assert sum(counts) == 90
    assert max(counts) == 20
    assert session.scalar(text("SELECT count(*) FROM similarity_flags")) == 45 * 44 / 2


def test_a_batch_of_short_vectors_has_no_more_rows_than_memory_holds(
    session: Session, project: ProjectRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.similarity.nearest.find_pgvector", lambda *_, **__: None)
    monkeypatch.setattr("pipeline.similarity.stream._BATCH_BYTES", 60_000)
    sizes = []
    batch = __import__("pipeline.similarity.stream", fromlist=["_batch"])._batch
    monkeypatch.setattr(
        "pipeline.similarity.stream._batch", lambda rows, size: sizes.append(len(rows)) or batch(rows, size)
    )
    ids = store_vectors(session, project, np.random.default_rng(7).standard_normal((500, 3)))
    assert len(nearest_records(session, ids[0])) == 10
    assert sum(sizes) == 499
    assert 64 < max(sizes) <= 120
