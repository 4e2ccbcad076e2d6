"""Reading embeddings out of the database as arrays, in bounded memory.

psycopg makes a list of Python numbers of each array; here PostgreSQL's binary format is taken as it is
(array_recv in src/backend/utils/adt/arrayfuncs.c).
"""

import struct
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

# A row takes this much beside the numbers.
_BATCH_BYTES, _ROW_BYTES = 16 * 1024**2, 500
_FLOAT8_ARRAY = 1022
# How long vectors are that can be compared: also pgvector squares their numbers, in 32 bits. No model's are
# anywhere near these ends.
_LEAST_LENGTH, MOST_LENGTH = 1e-15, 1e15
# Number of dimensions, whether there may be nulls, type of elements; then the only length and first index.
_HEADER = struct.Struct(">iiIii")
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
        if len(found) < _HEADER.size:
            return np.empty(0)
        dimensions, _, _, length, _ = _HEADER.unpack_from(found)
        if dimensions != 1 or len(found) != _HEADER.size + length * _ELEMENT.itemsize:
            # Other clients write to the same column: what is no vector of numbers is like none. A null has no
            # value and makes the array shorter.
            return np.empty(0)
        return np.frombuffer(found, dtype=_ELEMENT, offset=_HEADER.size)["value"].astype(np.float64)


def stream_embeddings(
    session: Session, query: str, parameters: Mapping[str, Any], *, dimensions: int
) -> Iterator[Batch]:
    """Ask a question whose last column is an embedding; vectors that cannot be compared are left out.

    These are arrays of not one dimension or with nulls, and vectors that are zero, not finite, or shorter or
    longer than any model's.

    Args:
        session: the transaction to ask in.
        query: SQL with `:name` for parameters.
        parameters: their values, and maybe others'.
        dimensions: how long the embeddings are; others are left out.

    Yields:
        Batches of rows, the vectors of length 1.
    """
    size = max(64, _BATCH_BYTES // (8 * dimensions + _ROW_BYTES))
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
    units, usable = make_units(vectors)
    return Batch([row[:-1] for row, is_usable in zip(rows, usable, strict=True) if is_usable], units)


def make_units(vectors: NDArray[np.float64]) -> tuple[Vectors, NDArray[np.bool_]]:
    """Bring vectors to length 1.

    Args:
        vectors: of shape (n, dimensions).

    Returns:
        Those that can be compared, of shape (usable, dimensions), and of shape (n,) which these are.
    """
    # What is beyond all numbers when squared is infinitely long.
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
    usable = (lengths >= _LEAST_LENGTH) & (lengths <= MOST_LENGTH)
    return vectors[usable] / lengths[usable, np.newaxis], usable
