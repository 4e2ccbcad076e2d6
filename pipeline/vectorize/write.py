"""Writing embeddings back: a statement for some hundred records, their vectors as one array.

The array of all vectors is packed at once and cut into rows by the server, which spares the table in between
and its copy of every vector.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sqlalchemy.orm import Session

from pipeline.ai import Vectors
from pipeline.database import driver_connection
from pipeline.embeddings import IS_PENDING, Digest
from pipeline.pgarrays import pack_doubles, pack_smallints, pack_texts, pack_uuids, takes_packed

# A larger parameter is slower: it falls out of the processor's caches.
_STATEMENT_BYTES = 4 * 1024**2
_ELEMENT_BYTES = 12

# A few hundred records are looked up one by one: the planner would read a table of some 10,000 whole.
_LOOK_UP = "SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"

# The array is a parameter and no column of a subquery: a row of a plan is copied with all that it holds.
# What an embedding was made of is kept in the same statement, and only of the records that got one.
_WRITE = f"""
    WITH written AS (
        UPDATE data_records AS record
        SET embedding = (%(numbers)b::double precision[])[
                (part.place - 1) * %(dimensions)b + 1 : part.place * %(dimensions)b
            ],
            "updatedAt" = now() AT TIME ZONE 'utc'
        FROM unnest(%(ids)b::text[], %(digests)b::uuid[], %(pieces)b::smallint[])
            WITH ORDINALITY AS part (id, digest, pieces, place)
        WHERE record.id = part.id AND {IS_PENDING}
        RETURNING record.id, part.digest, part.pieces
    )
    INSERT INTO record_embeddings (digest, record_id, pieces)
    SELECT digest, id, pieces FROM written ORDER BY digest ON CONFLICT DO NOTHING
"""  # noqa: S608 - put together from constants
_COPY = f"""
    WITH written AS (
        UPDATE data_records AS record
        SET embedding = source.embedding, "updatedAt" = now() AT TIME ZONE 'utc'
        FROM unnest(%(ids)b::text[], %(sources)b::text[], %(digests)b::uuid[])
            AS pair (id, source_id, digest)
        JOIN data_records AS source ON source.id = pair.source_id
        WHERE record.id = pair.id AND {IS_PENDING}
            AND cardinality(source.embedding) > 0 AND source.content = record.content
        RETURNING record.id, pair.digest
    ), noted AS (
        INSERT INTO record_embeddings (digest, record_id, pieces)
        SELECT digest, id, 1 FROM written ORDER BY digest ON CONFLICT DO NOTHING
    )
    SELECT id FROM written
"""  # noqa: S608 - put together from constants


class Origin(NamedTuple):
    """What a record's embedding is made of: its text's digest (see `pipeline.embeddings`), in pieces."""

    record_id: str
    digest: Digest
    pieces: int = 1


def write_embeddings(session: Session, origins: Sequence[Origin], vectors: Sequence[Vectors]) -> None:
    """Write the embeddings of records that have none, and what they are made of.

    Records that are gone, or have an embedding by now, are left alone.

    Args:
        session: the transaction to do it in.
        origins: n records.
        vectors: their embeddings, n of shape (dimensions,).
    """
    dimensions = len(vectors[0])
    rows = max(1, _STATEMENT_BYTES // (dimensions * _ELEMENT_BYTES))
    with takes_packed(driver_connection(session).cursor()) as cursor:
        cursor.execute(_LOOK_UP)
        for start in range(0, len(origins), rows):
            ids, digests, pieces = zip(*origins[start : start + rows], strict=True)
            values = {
                "ids": pack_texts(ids),
                "digests": pack_uuids(digests),
                "pieces": pack_smallints(pieces),
                "numbers": pack_doubles(np.stack(vectors[start : start + rows])),
                "dimensions": dimensions,
            }
            cursor.execute(_WRITE, values, prepare=True)


def copy_embeddings(session: Session, sources: Sequence[tuple[str, str, Digest]]) -> set[str]:
    """Give records the embeddings of others with the same text, within the database.

    Args:
        session: the transaction to do it in.
        sources: a record, the one that has its embedding, and their text's digest.

    Returns:
        The ids that were written; of the others the source has changed or gone meanwhile, or they have.
    """
    if not sources:
        return set()
    ids, source_ids, digests = zip(*sources, strict=True)
    with takes_packed(driver_connection(session).cursor()) as cursor:
        values = {"ids": pack_texts(ids), "sources": pack_texts(source_ids), "digests": pack_uuids(digests)}
        cursor.execute(_COPY, values)
        return {row[0] for row in cursor}
