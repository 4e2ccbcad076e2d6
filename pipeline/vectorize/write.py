"""Writing embeddings back: a statement for some hundred records, their vectors as one array.

The array of all vectors is packed at once and cut into rows by the server, which spares the table in between
and its copy of every vector. PostgreSQL's binary format of an array: array_recv in
src/backend/utils/adt/arrayfuncs.c.
"""

import struct
from collections.abc import Mapping, Sequence
from uuid import UUID

import numpy as np
from psycopg.adapt import Dumper
from psycopg.pq import Format
from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session
from sqlalchemy.types import SmallInteger, Text, Uuid

from pipeline.ai import Vectors
from pipeline.database import driver_connection

# A larger parameter is slower: it falls out of the processor's caches.
_STATEMENT_BYTES = 2 * 1024**2
_ELEMENT = np.dtype([("length", ">i4"), ("value", ">f8")])
_FLOAT8, _FLOAT8_ARRAY = 701, 1022
# Dimensions of the array, whether it has nulls, the elements' type; then the only dimension and its first
# index.
_ARRAY_START = struct.Struct(">iiIii").pack

_WRITE = """
    UPDATE data_records AS record
    SET embedding = flat.numbers[(part.place - 1) * %(dimensions)b + 1 : part.place * %(dimensions)b],
        "updatedAt" = now() AT TIME ZONE 'utc'
    FROM unnest(%(ids)b::text[]) WITH ORDINALITY AS part (id, place),
        (SELECT %(numbers)b::double precision[] AS numbers OFFSET 0) AS flat
    WHERE record.id = part.id AND cardinality(record.embedding) = 0
    RETURNING record.id
"""
_COPY = text("""
    UPDATE data_records AS record
    SET embedding = source.embedding, "updatedAt" = now() AT TIME ZONE 'utc'
    FROM unnest(:ids, :sources) AS pair (id, source_id)
    JOIN data_records AS source ON source.id = pair.source_id
    WHERE record.id = pair.id AND cardinality(record.embedding) = 0
        AND cardinality(source.embedding) > 0 AND source.content = record.content
    RETURNING record.id
""").bindparams(bindparam("ids", type_=ARRAY(Text)), bindparam("sources", type_=ARRAY(Text)))
_NOTE = text("""
    INSERT INTO record_embeddings (digest, record_id, pieces)
    SELECT * FROM unnest(:digests, :ids, :pieces) ON CONFLICT DO NOTHING
""").bindparams(
    bindparam("digests", type_=ARRAY(Uuid)),
    bindparam("ids", type_=ARRAY(Text)),
    bindparam("pieces", type_=ARRAY(SmallInteger)),
)


class _Packed:
    """A float8[] in PostgreSQL's binary format."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class _PackedDumper(Dumper):
    format = Format.BINARY
    oid = _FLOAT8_ARRAY

    def dump(self, obj: _Packed) -> bytes:
        return obj.data


def write_embeddings(session: Session, ids: Sequence[str], vectors: Vectors) -> set[str]:
    """Write the embeddings of records that have none.

    Args:
        session: the transaction to do it in.
        ids: n records.
        vectors: their embeddings, shape (n, dimensions).

    Returns:
        The ids that were written; the others are gone, or have an embedding by now.
    """
    dimensions = vectors.shape[1]
    rows = max(1, _STATEMENT_BYTES // (dimensions * _ELEMENT.itemsize))
    written: set[str] = set()
    with driver_connection(session).cursor() as cursor:
        cursor.adapters.register_dumper(_Packed, _PackedDumper)
        for start in range(0, len(ids), rows):
            part = vectors[start : start + rows]
            cursor.execute(
                _WRITE,
                {"ids": list(ids[start : start + rows]), "numbers": _pack(part), "dimensions": dimensions},
                prepare=True,
            )
            written.update(row[0] for row in cursor)
    return written


def _pack(vectors: Vectors) -> _Packed:
    elements = np.empty(vectors.size, dtype=_ELEMENT)
    elements["length"] = _ELEMENT["value"].itemsize
    elements["value"] = vectors.reshape(-1)
    return _Packed(_ARRAY_START(1, 0, _FLOAT8, vectors.size, 1) + elements.tobytes())


def copy_embeddings(session: Session, sources: Mapping[str, str]) -> set[str]:
    """Give records the embeddings of others with the same text, within the database.

    Args:
        session: the transaction to do it in.
        sources: for each record the one that has its embedding.

    Returns:
        The ids that were written; of the others the source has changed or gone meanwhile, or they have.
    """
    if not sources:
        return set()
    return set(session.scalars(_COPY, {"ids": list(sources), "sources": list(sources.values())}))


def note_origins(session: Session, origins: Sequence[tuple[UUID, str, int]]) -> None:
    """Keep what embeddings were made of: digest (see `pipeline.embeddings`), record, number of pieces."""
    if origins:
        digests, ids, pieces = zip(*origins, strict=True)
        session.execute(_NOTE, {"digests": list(digests), "ids": list(ids), "pieces": list(pieces)})
