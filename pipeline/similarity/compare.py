"""The compare stage: each new task against the other tasks of the same person, exact, in bounded memory.

A chunk is some people with all of their new tasks, or a range of the new tasks of one who has many. A pair is
looked at once: by the chunk of the later task where both are new.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

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
from pipeline.similarity.flags import Pairs, join_pairs, keep_pairs, read_threshold
from pipeline.similarity.stream import Batch, stream_embeddings
from pipeline.vectorize.scope import Scope, is_of_project, read_scope

# What is held in memory: a chunk's new tasks with what is found for them, and a block of products, which is
# copied a few times where most of it is similar.
_NEW_BYTES, _BLOCK_BYTES = 64 * 1024**2, 8 * 1024**2
_LEAST_CHUNK = 500
# Of one task that is like hundreds of others, so many of the nearest are kept.
_MOST_A_RECORD = 50
# One of them: similarity, which is earlier, and an id with its place in the list. A task's own id and time.
_PAIR_BYTES, _TASK_BYTES = 91, 250
# Two equal vectors multiply to 1 but for the last digit, and equal pairs to the same but for it.
_ROUNDING, _DIGITS = 1e-9, 12

_TASKS = f"""
    FROM data_records AS record
    WHERE {{condition}} AND record.type = 'TASK' AND {PERSON} IS NOT NULL
"""
_PEOPLE = f"SELECT {PERSON} AS person, count(*) AS task_count {_TASKS} GROUP BY 1 ORDER BY 1"
_IDS_OF_PERSON = f"SELECT record.id {_TASKS} AND {PERSON} = :person ORDER BY record.id"
# Time in seconds: Python's own type holds neither infinity nor the year 10000.
_OF_PEOPLE = f"""
    SELECT record.id, {PERSON} AS person, date_part('epoch', record."createdAt") AS moment,
        coalesce({{is_new}}, false), record.embedding
    {_TASKS} AND {PERSON} = ANY(:people) ORDER BY person, moment, record.id COLLATE "C"
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
        flow.hold_project(session, scope.project_id)
        space = read_space(session, scope.project_id)
        if is_of_project(held):
            # Everything is compared anew, maybe by another model.
            session.execute(_FORGET, {"project_id": scope.project_id})
        chunks: list[PlannedChunk] = []
        if space is not None and space.dimensions is not None:
            a_task = 8 * space.dimensions + _TASK_BYTES + _MOST_A_RECORD * _PAIR_BYTES
            size = max(_LEAST_CHUNK, _NEW_BYTES // a_task)
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
        pairs = join_pairs([])
        if space is not None and space.dimensions is not None:
            pairs = _find_pairs(session, held, scope, space, space.dimensions)
    with transaction() as session:
        flow.lock_running(session, held)
        if space is not None:
            keep_pairs(session, pairs, model=space.model)
        flow.finish_chunk(session, held, ChunkResult(done=held.record_count))


def _find_pairs(session: Session, held: Claim, scope: Scope, space: Space, dimensions: int) -> Pairs:
    threshold = read_threshold(session, space.model) - _ROUNDING
    in_range = "true"
    if "first_id" in held.span:
        in_range = "record.id BETWEEN :first_id AND :last_id"
    parameters = {**scope.parameters, **held.span}
    mine = _OF_PEOPLE.format(condition=f"{scope.condition} AND {in_range}", is_new="true")
    new = _NewTasks(stream_embeddings(session, mine, parameters, dimensions=dimensions))
    everybody = _OF_PEOPLE.format(condition='record."projectId" = :of_project', is_new=scope.condition)
    parameters |= {"of_project": scope.project_id}
    for batch in stream_embeddings(session, everybody, parameters, dimensions=dimensions):
        check_lease()
        for person, tasks in _by_person(batch):
            new.compare(person, tasks, threshold)
    return new.pairs()


@dataclass(frozen=True)
class _Tasks:
    """n tasks of one person in order of time: time and id of each, newness (n,), vectors (n, dimensions)."""

    keys: Sequence[tuple[float, str]]
    is_new: NDArray[np.bool_]
    vectors: Vectors

    def ids(self) -> NDArray[np.object_]:
        """Give the ids, shape (n,)."""
        return np.array([record_id for _, record_id in self.keys], dtype=object)


def _by_person(batch: Batch) -> Iterator[tuple[str, _Tasks]]:
    start = 0
    for person, of_person in groupby(batch.rows, key=itemgetter(1)):
        rows = list(of_person)
        end = start + len(rows)
        keys = [(row[2], row[0]) for row in rows]
        yield person, _Tasks(keys, np.array([row[3] for row in rows]), batch.vectors[start:end])
        start = end


def _joined(parts: Sequence[_Tasks]) -> _Tasks:
    return _Tasks(
        [key for part in parts for key in part.keys],
        np.concatenate([part.is_new for part in parts]),
        np.concatenate([part.vectors for part in parts]),
    )


class _Nearest:
    """One person's n new tasks, and for each of them the nearest others so far, the nearest first."""

    def __init__(self, new: _Tasks) -> None:
        self._new = new
        shape = (len(new.keys), _MOST_A_RECORD)
        # Minus infinity where there is none yet.
        self._similarities = np.full(shape, -np.inf)
        self._others = np.empty(shape, dtype=object)
        self._is_earlier = np.zeros(shape, dtype=bool)

    def compare(self, others: _Tasks, threshold: float) -> None:
        """Look among m other tasks of the person; they come in order of time from call to call."""
        new, ids, places = self._new, others.ids(), np.arange(len(others.keys))
        earlier_counts = np.array([bisect_left(others.keys, key) for key in new.keys])
        step = max(1, _BLOCK_BYTES // (8 * len(places)))
        for start in range(0, len(new.keys), step):
            block = slice(start, start + step)
            products = new.vectors[block] @ others.vectors.T
            np.round(products, _DIGITS, out=products)
            is_earlier = places < earlier_counts[block, np.newaxis]
            is_wanted = (products >= threshold) & (is_earlier | ~others.is_new)
            _leave_nearest(products, is_wanted)
            rows, columns = np.nonzero(is_wanted)
            if len(rows):
                found = products[rows, columns], ids[columns], is_earlier[rows, columns]
                self._keep(start + rows, *found)

    def _keep(
        self,
        rows: NDArray[np.intp],
        similarities: Vectors,
        others: NDArray[np.object_],
        is_earlier: NDArray[np.bool_],
    ) -> None:
        """Let those found take their places among those known; all of shape (found,), in order of rows."""
        touched, counts = np.unique(rows, return_counts=True)
        line = np.repeat(np.arange(len(touched)), counts)
        # Beside those known, so that a stable sort lets the earlier of two that are equally near come first.
        column = _MOST_A_RECORD + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        padding = ((0, 0), (0, int(counts.max())))
        candidates = np.pad(self._similarities[touched], padding, constant_values=-np.inf)
        candidates[line, column] = similarities
        best = np.argsort(-candidates, axis=1, kind="stable")[:, :_MOST_A_RECORD]
        self._similarities[touched] = np.take_along_axis(candidates, best, axis=1)
        for kept, found in ((self._others, others), (self._is_earlier, is_earlier)):
            among = np.pad(kept[touched], padding)
            among[line, column] = found
            kept[touched] = np.take_along_axis(among, best, axis=1)

    def pairs(self) -> Pairs:
        """Give the pairs found."""
        own, others = np.broadcast_to(self._new.ids()[:, np.newaxis], self._others.shape), self._others
        # A task that was given another time meanwhile may have met itself.
        is_found = np.isfinite(self._similarities) & (own != others)
        return Pairs(
            np.where(self._is_earlier, own, others)[is_found],
            np.where(self._is_earlier, others, own)[is_found],
            np.clip(self._similarities[is_found], -1.0, 1.0),
        )


def _leave_nearest(similarities: Vectors, is_wanted: NDArray[np.bool_]) -> None:
    """Let at most so many be wanted in each row: the nearest, of equal ones the first."""
    crowded = np.flatnonzero(np.count_nonzero(is_wanted, axis=1) > _MOST_A_RECORD)
    if not len(crowded):
        return
    among = np.where(is_wanted[crowded], similarities[crowded], -np.inf)
    least = np.partition(among, -_MOST_A_RECORD, axis=1)[:, -_MOST_A_RECORD, np.newaxis]
    is_above, is_level = among > least, among == least
    room = _MOST_A_RECORD - np.count_nonzero(is_above, axis=1, keepdims=True)
    is_wanted[crowded] = is_above | (is_level & (np.cumsum(is_level, axis=1, dtype=np.int32) <= room))


class _NewTasks:
    """A chunk's new tasks by person."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        parts: dict[str, list[_Tasks]] = defaultdict(list)
        for batch in batches:
            for person, tasks in _by_person(batch):
                parts[person].append(tasks)
        self._nearest = {person: _Nearest(_joined(found)) for person, found in parts.items()}

    def compare(self, person: str, others: _Tasks, threshold: float) -> None:
        """Compare a person's new tasks with some of all tasks of the person."""
        if person in self._nearest:
            self._nearest[person].compare(others, threshold)

    def pairs(self) -> Pairs:
        """Give all pairs."""
        return join_pairs([nearest.pairs() for nearest in self._nearest.values()])
