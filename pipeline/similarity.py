"""Nearest records by cosine similarity, exact, in bounded memory."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from schemas.reference import DataRecord

_BATCH = 2_000


@dataclass(frozen=True)
class Neighbour:
    """A record and its cosine similarity to the one asked about, -1 to 1."""

    id: str
    content: str
    similarity: float


def nearest_records(session: Session, record_id: str, *, limit: int = 5) -> list[Neighbour]:
    """Find the records of the same project that are nearest to a record, the nearest first.

    Args:
        session: the transaction to ask in.
        record_id: a record with an embedding; without one it has no neighbours.
        limit: how many.
    """
    record = session.execute(
        select(DataRecord.project_id, DataRecord.embedding).where(DataRecord.id == record_id)
    ).first()
    if record is None or not record.embedding:
        return []
    query = np.asarray(record.embedding)
    best = _best(_embeddings(session, record.project_id, record_id, len(query)), query, limit)
    contents = {
        row.id: row.content
        for row in session.execute(
            select(DataRecord.id, DataRecord.content).where(DataRecord.id.in_([found for _, found in best]))
        )
    }
    return [Neighbour(found, contents[found], similarity) for similarity, found in best]


def _embeddings(
    session: Session, project_id: str, record_id: str, dimensions: int
) -> Iterable[tuple[list[str], NDArray[np.float64]]]:
    rows = session.execute(
        select(DataRecord.id, DataRecord.embedding)
        .where(
            DataRecord.project_id == project_id,
            DataRecord.id != record_id,
            func.cardinality(DataRecord.embedding) == dimensions,
        )
        .execution_options(yield_per=_BATCH)
    )
    for part in rows.partitions():
        yield [row.id for row in part], np.asarray([row.embedding for row in part])


def _best(
    parts: Iterable[tuple[list[str], NDArray[np.float64]]], query: NDArray[np.float64], limit: int
) -> list[tuple[float, str]]:
    best: list[tuple[float, str]] = []
    for ids, matrix in parts:
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(query)
        similarities = (matrix @ query) / lengths
        best += zip(similarities.tolist(), ids, strict=True)
        # Ties are broken by id, so that the answer does not depend on the order of reading.
        best = sorted(best, key=lambda entry: (-entry[0], entry[1]))[:limit]
    return best
