"""Writing embeddings back: a statement for some hundred records, their vectors as one array.

The array of all vectors is packed at once and cut into rows by the server, which spares the table in between
and its copy of every vector. Where the database has pgvector, numbers of 32 bits travel as its vectors: half
as many bytes, which it reads faster.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sqlalchemy.orm import Session

from pipeline.ai import Vectors
from pipeline.database import driver_connection
from pipeline.embeddings import IS_PENDING, Digest
from pipeline.pgarrays import (
    PackedArray,
    VectorType,
    pack_doubles,
    pack_smallints,
    pack_texts,
    pack_uuids,
    pack_vectors,
    pack_xids,
    takes_packed,
    takes_vectors,
)

# A larger parameter is slower: it falls out of the processor's caches.
_STATEMENT_BYTES = 4 * 1024**2
_ELEMENT_BYTES = 12

# A few hundred records are looked up one by one: the planner would read a table of some 10,000 whole.
_LOOK_UP = "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"

_REPLACE = "ON CONFLICT (record_id) DO UPDATE SET digest = excluded.digest, pieces = excluded.pieces"

# The array is a parameter and no column of a subquery: a row of a plan is copied with all that it holds.
# What an embedding was made of is kept in the same statement, and only of the records that got one. A text
# that has changed meanwhile gets none: it is hashed only where the row has changed, because that takes longer
# than all else.
_WRITE = f"""
    WITH written AS (
        UPDATE data_records AS record
        SET embedding = {{embedding}}, "updatedAt" = now() AT TIME ZONE 'utc'
        FROM unnest(%(ids)b::text[], %(versions)b::xid[], %(digests)b::uuid[], %(pieces)b::smallint[])
            WITH ORDINALITY AS part (id, version, digest, pieces, place)
        WHERE record.id = part.id AND {IS_PENDING} AND (
            record.xmin = part.version
            OR opspipe_embedding_digest(%(maker)s, record.content) = part.digest
        )
        RETURNING record.id, part.digest, part.pieces
    )
    INSERT INTO record_embeddings (record_id, digest, pieces)
    SELECT id, digest, pieces FROM written ORDER BY id {_REPLACE}
"""  # noqa: S608 - put together from constants
_OF_DOUBLES = """(%(numbers)b::double precision[])[
    (part.place - 1) * %(dimensions)s + 1 : part.place * %(dimensions)s
]"""
_OF_VECTORS = "(%(numbers)b)[part.place]::real[]::double precision[]"
_MOST_VECTOR_DIMENSIONS = 16_000
_LEFT = f"""
    SELECT record.id FROM data_records AS record WHERE record.id = ANY(%(ids)b) AND {IS_PENDING}
"""  # noqa: S608 - put together from constants
_COPY = f"""
    WITH written AS (
        UPDATE data_records AS record
        SET embedding = source.embedding, "updatedAt" = now() AT TIME ZONE 'utc'
        FROM unnest(%(ids)b::text[], %(sources)b::text[], %(digests)b::uuid[])
            AS pair (id, source_id, digest)
        JOIN record_embeddings AS known ON known.record_id = pair.source_id AND known.digest = pair.digest
        JOIN data_records AS source ON source.id = pair.source_id
        WHERE record.id = pair.id AND {IS_PENDING}
            AND cardinality(source.embedding) = %(dimensions)s AND source.content = record.content
        RETURNING record.id, pair.digest, known.pieces
    ), noted AS (
        INSERT INTO record_embeddings (record_id, digest, pieces)
        SELECT id, digest, pieces FROM written ORDER BY id {_REPLACE}
    )
    SELECT id FROM written
"""  # noqa: S608 - put together from constants


class Origin(NamedTuple):
    """What a record's embedding is made of: its text's digest (see `pipeline.embeddings`), in pieces.

    `version` is the row's `xmin` when the text was read.
    """

    record_id: str
    version: int
    digest: Digest
    pieces: int = 1


def write_embeddings(
    session: Session, origins: Sequence[Origin], vectors: Sequence[Vectors], *, maker: str
) -> set[str]:
    """Write the embeddings of records that have none, and what they are made of.

    Records that are gone, or have an embedding by now, are left alone.

    Args:
        session: the transaction to do it in.
        origins: n records.
        vectors: their embeddings, n of shape (dimensions,).
        maker: who made them (`Space.maker`).

    Returns:
        The ids of records that are still pending, because their text is another by now.
    """
    left: set[str] = set()
    rows = max(1, _STATEMENT_BYTES // (len(vectors[0]) * _ELEMENT_BYTES))
    with takes_packed(driver_connection(session).cursor()) as cursor:
        cursor.execute(_LOOK_UP)
        kind = takes_vectors(cursor)
        for start in range(0, len(origins), rows):
            ids, versions, digests, pieces = zip(*origins[start : start + rows], strict=True)
            embedding, numbers = _pack(np.stack(vectors[start : start + rows]), kind)
            values = {
                "ids": pack_texts(ids),
                "versions": pack_xids(versions),
                "digests": pack_uuids(digests),
                "pieces": pack_smallints(pieces),
                "maker": maker,
                **numbers,
            }
            if cursor.execute(_WRITE.format(embedding=embedding), values, prepare=True).rowcount < len(ids):
                left.update(row[0] for row in cursor.execute(_LEFT, {"ids": pack_texts(ids)}))
    return left


def _pack(vectors: Vectors, kind: VectorType | None) -> tuple[str, dict[str, PackedArray | int]]:
    """Give the SQL of a row's embedding, and its parameters."""
    dimensions = vectors.shape[1]
    if kind is not None and vectors.dtype == np.float32 and dimensions <= _MOST_VECTOR_DIMENSIONS:
        return _OF_VECTORS, {"numbers": pack_vectors(vectors, kind)}
    return _OF_DOUBLES, {"numbers": pack_doubles(vectors), "dimensions": dimensions}


def copy_embeddings(
    session: Session, sources: Sequence[tuple[str, str, Digest]], *, dimensions: int
) -> set[str]:
    """Give records the embeddings of others with the same text, within the database.

    Args:
        session: the transaction to do it in.
        sources: a record, the one that has its embedding, and their text's digest.
        dimensions: how long the embeddings are.

    Returns:
        The ids that were written; of the others the source has changed or gone meanwhile, or they have.
    """
    if not sources:
        return set()
    ids, source_ids, digests = zip(*sources, strict=True)
    with takes_packed(driver_connection(session).cursor()) as cursor:
        values = {"ids": pack_texts(ids), "sources": pack_texts(source_ids), "digests": pack_uuids(digests)}
        cursor.execute(_COPY, {**values, "dimensions": dimensions})
        return {row[0] for row in cursor}
