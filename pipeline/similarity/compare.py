"""The compare stage: each new task against the other tasks of the same person, exact, in bounded memory.

A chunk is some people with all of their new tasks, or a range of the new tasks of one who has many. A pair is
looked at once: by the chunk of the later task where both are new.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline import flow
from pipeline.ai import Vectors
from pipeline.database import transaction
from pipeline.embeddings import Space, read_space
from pipeline.lease import check_lease
from pipeline.ledger import ChunkResult, Claim, PlannedChunk
from pipeline.people import PERSON
from pipeline.similarity.flags import Pair, keep_pairs, read_threshold
from pipeline.similarity.stream import Batch, stream_embeddings
from pipeline.vectorize.scope import Scope, is_of_project, read_scope

# The new tasks' vectors of a chunk, and a block of the products, are held in memory.
_NEW_BYTES, _BLOCK_BYTES = 64 * 1024**2, 16 * 1024**2
_LEAST_CHUNK = 500
# Of one task that is like hundreds of others, so many of the nearest are kept.
_MOST_A_RECORD = 50
# Two equal vectors multiply to 1 but for the last digit.
_ROUNDING = 1e-9

_TASKS = f"""
    FROM data_records AS record
    WHERE {{condition}} AND record.type = 'TASK' AND {PERSON} IS NOT NULL
"""
_PEOPLE = f"SELECT {PERSON} AS person, count(*) AS task_count {_TASKS} GROUP BY 1 ORDER BY 1"
_IDS_OF_PERSON = f"SELECT record.id {_TASKS} AND {PERSON} = :person ORDER BY record.id"
_OF_PEOPLE = f"""
    SELECT record.id, {PERSON} AS person, record."createdAt", coalesce({{is_new}}, false), record.embedding
    {_TASKS} AND {PERSON} = ANY(:people)
"""
_FORGET = text("""
    DELETE FROM similarity_flags AS flag USING data_records AS record
    WHERE record.id = flag.record_id AND record."projectId" = :project_id
""")


def plan_compare(held: Claim) -> None:
    """Split the new tasks by who made them.

    Raises:
        LeaseLostError: somebody else planned it, or the job was stopped.
    """
    with transaction() as session:
        scope = read_scope(session, held)
        space = read_space(session, scope.project_id)
        if is_of_project(held):
            # Everything is compared anew, maybe by another model.
            session.execute(_FORGET, {"project_id": scope.project_id})
        chunks: list[PlannedChunk] = []
        if space is not None and space.dimensions is not None:
            size = max(_LEAST_CHUNK, _NEW_BYTES // (8 * space.dimensions))
            chunks = list(_chunks(session, scope, size))
        flow.finish_plan(session, held, chunks)


def _chunks(session: Session, scope: Scope, size: int) -> Iterator[PlannedChunk]:
    people: list[str] = []
    count = 0
    for row in session.execute(text(_PEOPLE.format(condition=scope.condition)), scope.parameters):
        if row.task_count > size:
            yield from _ranges(session, scope, row.person, size)
            continue
        if count + row.task_count > size:
            yield PlannedChunk({"people": people}, count)
            people, count = [], 0
        people.append(row.person)
        count += row.task_count
    if people:
        yield PlannedChunk({"people": people}, count)


def _ranges(session: Session, scope: Scope, person: str, size: int) -> Iterator[PlannedChunk]:
    question = text(_IDS_OF_PERSON.format(condition=scope.condition))
    ids = session.scalars(question, {**scope.parameters, "person": person}).all()
    for start in range(0, len(ids), size):
        part = ids[start : start + size]
        yield PlannedChunk({"people": [person], "first_id": part[0], "last_id": part[-1]}, len(part))


def compare_chunk(held: Claim) -> None:
    """Find the pairs of one chunk that are similar enough and keep them; doing it twice changes nothing.

    Raises:
        LeaseLostError: another worker has the chunk, or the job was stopped; nothing was kept.
    """
    with transaction() as session:
        scope = read_scope(session, held)
        space = read_space(session, scope.project_id)
        pairs: list[Pair] = []
        if space is not None and space.dimensions is not None:
            pairs = _find_pairs(session, held, scope, space, space.dimensions)
    with transaction() as session:
        flow.lock_running(session, held)
        if space is not None:
            keep_pairs(session, pairs, model=space.model)
        flow.finish_chunk(session, held, ChunkResult(done=held.record_count))


def _find_pairs(session: Session, held: Claim, scope: Scope, space: Space, dimensions: int) -> list[Pair]:
    threshold = read_threshold(session, space.model) - _ROUNDING
    in_range = "true"
    if "first_id" in held.span:
        in_range = "record.id BETWEEN :first_id AND :last_id"
    parameters = {**scope.parameters, **held.span}
    mine = _OF_PEOPLE.format(condition=f"{scope.condition} AND {in_range}", is_new="true")
    new = _NewTasks.gather(stream_embeddings(session, mine, parameters, dimensions=dimensions))
    everybody = _OF_PEOPLE.format(condition='record."projectId" = :of_project', is_new=scope.condition)
    parameters |= {"of_project": scope.project_id}
    for batch in stream_embeddings(session, everybody, parameters, dimensions=dimensions):
        check_lease()
        for person, tasks in _by_person(batch):
            new.compare(person, tasks, threshold)
    return new.pairs()


@dataclass(frozen=True)
class _Tasks:
    """n tasks of one person: ids, times and newness of shape (n,), vectors of shape (n, dimensions)."""

    ids: NDArray[np.str_]
    moments: NDArray[np.datetime64]
    is_new: NDArray[np.bool_]
    vectors: Vectors

    def order(self) -> NDArray[np.intp]:
        """Give the places in order of time, ties by id."""
        return np.lexsort((self.ids, self.moments))


def _by_person(batch: Batch) -> Iterator[tuple[str, _Tasks]]:
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(batch.rows):
        places[row[1]].append(place)
    for person, chosen in places.items():
        rows = [batch.rows[place] for place in chosen]
        yield person, _tasks(rows, batch.vectors[chosen])


def _tasks(rows: Sequence[tuple[Any, ...]], vectors: Vectors) -> _Tasks:
    return _Tasks(
        np.array([row[0] for row in rows]),
        np.array([row[2] for row in rows], dtype="datetime64[us]"),
        np.array([row[3] for row in rows], dtype=bool),
        vectors,
    )


class _NewTasks:
    """A chunk's new tasks by person, and for each of them the nearest others so far."""

    def __init__(self, tasks: Mapping[str, _Tasks]) -> None:
        self._tasks = tasks
        # By the new task: similarity, time and id of the other one, and the pair.
        self._found: dict[str, list[tuple[float, Any, str, Pair]]] = defaultdict(list)

    @classmethod
    def gather(cls, batches: Iterator[Batch]) -> "_NewTasks":
        """Read all of a chunk's new tasks."""
        parts: dict[str, list[_Tasks]] = defaultdict(list)
        for batch in batches:
            for person, tasks in _by_person(batch):
                parts[person].append(tasks)
        return cls({person: _joined(found) for person, found in parts.items()})

    def compare(self, person: str, others: _Tasks, threshold: float) -> None:
        """Compare a person's new tasks with some of all tasks of the person."""
        new = self._tasks.get(person)
        if new is None:
            return
        order = others.order()
        step = max(1, _BLOCK_BYTES // (8 * len(others.ids)))
        for start in range(0, len(new.ids), step):
            products = new.vectors[start : start + step] @ others.vectors[order].T
            rows, columns = np.nonzero(products >= threshold)
            for row in np.unique(rows):
                near = order[columns[rows == row]]
                self._keep_nearest(new, start + int(row), others, near, products[row][columns[rows == row]])

    def _keep_nearest(
        self, new: _Tasks, place: int, others: _Tasks, near: NDArray[np.intp], similarities: Vectors
    ) -> None:
        own_id, own_moment = new.ids[place], new.moments[place]
        moments, ids = others.moments[near], others.ids[near]
        is_earlier = (moments < own_moment) | ((moments == own_moment) & (ids < own_id))
        is_mine = (ids != own_id) & (is_earlier | ~others.is_new[near])
        near, similarities, is_earlier = near[is_mine], similarities[is_mine], is_earlier[is_mine]
        # The others come in order of time: a stable sort breaks ties so.
        best = np.argsort(-similarities, kind="stable")[:_MOST_A_RECORD]
        found = self._found[str(own_id)]
        for choice in best:
            other = str(others.ids[near[choice]])
            later, earlier = (own_id, other) if is_earlier[choice] else (other, own_id)
            similarity = float(np.clip(similarities[choice], -1.0, 1.0))
            pair = Pair(str(later), str(earlier), similarity)
            found.append((-similarity, others.moments[near[choice]], other, pair))
        found.sort()
        del found[_MOST_A_RECORD:]

    def pairs(self) -> list[Pair]:
        """Give all pairs."""
        return [entry[-1] for found in self._found.values() for entry in found]


def _joined(parts: Sequence[_Tasks]) -> _Tasks:
    return _Tasks(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.moments for part in parts]),
        np.concatenate([part.is_new for part in parts]),
        np.concatenate([part.vectors for part in parts]),
    )
