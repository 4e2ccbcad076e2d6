"""Reading embeddings out of the database as arrays, in bounded memory.

psycopg makes a list of Python numbers of each array; here PostgreSQL's binary format is taken as it is
(array_recv in src/backend/utils/adt/arrayfuncs.c).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.adapt import Buffer, Loader
from psycopg.pq import Format
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.ai import Vectors
from pipeline.database import driver_connection

_BATCH_BYTES = 16 * 1024**2
_FLOAT8_ARRAY = 1022
# Dimensions, flag of nulls, type of the elements, length, first index: four bytes each.
_HEADER_BYTES, _NULLS_AT = 20, slice(4, 8)
_ELEMENT = np.dtype([("length", ">i4"), ("value", ">f8")])


@dataclass(frozen=True)
class Batch:
    """Some rows: their columns but the embedding, and their embeddings of shape (rows, dimensions)."""

    rows: Sequence[tuple[Any, ...]]
    vectors: Vectors


class _EmbeddingLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> NDArray[np.float64]:
        found = bytes(data)
        if len(found) < _HEADER_BYTES or any(found[_NULLS_AT]):
            # Other clients write to the same column: what is no vector of numbers is like none.
            return np.empty(0)
        return np.frombuffer(found, dtype=_ELEMENT, offset=_HEADER_BYTES)["value"].astype(np.float64)


def stream_embeddings(
    session: Session, query: str, parameters: Mapping[str, Any], *, dimensions: int
) -> Iterator[Batch]:
    """Ask a question whose last column is an embedding; vectors that are zero or not finite are left out.

    Args:
        session: the transaction to ask in.
        query: SQL with `:name` for parameters.
        parameters: their values, and maybe others'.
        dimensions: how long the embeddings are; others are left out.

    Yields:
        Batches of rows, the vectors of length 1.
    """
    size = max(64, _BATCH_BYTES // (8 * dimensions))
    compiled = str(text(query).compile(dialect=session.get_bind().dialect))
    # A cursor on the server: the client never holds more than a batch.
    with driver_connection(session).cursor(name="opspipe_embeddings", binary=True) as cursor:
        cursor.adapters.register_loader(_FLOAT8_ARRAY, _EmbeddingLoader)
        cursor.itersize = size
        cursor.execute(compiled, parameters)
        while rows := cursor.fetchmany(size):
            yield _batch(rows, dimensions)


def _batch(rows: Sequence[tuple[Any, ...]], dimensions: int) -> Batch:
    rows = [row for row in rows if len(row[-1]) == dimensions]
    vectors = np.stack([row[-1] for row in rows]) if rows else np.empty((0, dimensions))
    lengths = np.linalg.norm(vectors, axis=1)
    usable = np.isfinite(lengths) & (lengths > 0)
    return Batch(
        [row[:-1] for row, is_usable in zip(rows, usable, strict=True) if is_usable],
        vectors[usable] / lengths[usable, np.newaxis],
    )
