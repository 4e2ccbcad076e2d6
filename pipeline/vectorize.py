"""The vectorize stage: embeddings for the records of an ingest job that have none yet."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from pipeline import flow
from pipeline.ai import EmbeddingModel, embed_texts, embedding_model
from pipeline.database import driver_connection, transaction
from pipeline.errors import PermanentError
from pipeline.failures import Failure, list_failures
from pipeline.ledger import ChunkResult, Claim, PlannedChunk
from pipeline.settings import get_settings
from pipeline.system_settings import read_ai_settings

# Every batch as one range of ids: the plan stays small however many records there are.
_PLAN = text("""
    SELECT min(id) AS first_id, max(id) AS last_id, count(*) AS record_count
    FROM (
        SELECT id, (row_number() OVER (ORDER BY id) - 1) / :batch AS batch
        FROM data_records
        WHERE "ingestJobId" = :job_id AND embedding = '{}'
    ) AS pending
    GROUP BY batch ORDER BY batch
""")

_PENDING = text("""
    SELECT id, content FROM data_records
    WHERE "ingestJobId" = :job_id AND id BETWEEN :first_id AND :last_id AND embedding = '{}'
    ORDER BY id
""")

# Staged in a table without TOAST compression: compressing what is read once costs more than it saves.
_STAGE = """
    CREATE TEMPORARY TABLE IF NOT EXISTS staged_embeddings (
        id text NOT NULL, embedding double precision[] STORAGE EXTERNAL NOT NULL
    ) ON COMMIT DELETE ROWS
"""
_COPY = "COPY staged_embeddings (id, embedding) FROM STDIN (FORMAT binary)"
_WRITE = text("""
    UPDATE data_records AS record
    SET embedding = staged.embedding, "updatedAt" = now() AT TIME ZONE 'utc'
    FROM staged_embeddings AS staged
    WHERE record.id = staged.id
""")


@dataclass(frozen=True)
class _Outcome:
    embedded: list[tuple[str, NDArray[np.float64]]]
    failures: list[Failure]


def plan_vectorize(held: Claim) -> None:
    """Split the job's records without embedding into batches.

    Raises:
        LeaseLostError: somebody else planned it, or the job was stopped.
    """
    with transaction() as session:
        ai = read_ai_settings(session)
        rows = session.execute(_PLAN, {"job_id": held.ref.job_id, "batch": get_settings().embed_batch})
        chunks = [
            PlannedChunk({"first_id": row.first_id, "last_id": row.last_id}, row.record_count) for row in rows
        ]
        flow.finish_plan(session, held, chunks, context={"provider": ai.provider})


def vectorize_chunk(held: Claim) -> None:
    """Embed one batch and write it back; records that have an embedding by now are left alone.

    Raises:
        LeaseLostError: another worker has the chunk, or the job was stopped; nothing was written.
        TransientError: the provider or the database is not there for the moment.
        FatalError: the provider refuses all work.
    """
    with transaction() as session:
        pending = session.execute(_PENDING, {"job_id": held.ref.job_id, **held.span}).all()
    outcome = _embed(embedding_model(held.context["provider"]), pending)
    with transaction() as session:
        _write(session, outcome.embedded)
        flow.lock_running(session, held)
        failed = list_failures(session, held, outcome.failures)
        # Records that vanished or were embedded by another client meanwhile are settled too.
        flow.finish_chunk(session, held, ChunkResult(done=held.record_count - failed, failed=failed))


def _embed(model: EmbeddingModel, pending: Sequence[Row[tuple[str, str]]]) -> _Outcome:
    try:
        vectors = embed_texts(model, [row.content for row in pending])
    except PermanentError as error:
        if len(pending) == 1:
            return _Outcome([], [Failure(pending[0].id, error)])
        # One record at fault never costs another its embedding.
        each = [_embed(model, [row]) for row in pending]
        return _Outcome(
            [entry for outcome in each for entry in outcome.embedded],
            [entry for outcome in each for entry in outcome.failures],
        )
    return _Outcome([(row.id, vector) for row, vector in zip(pending, vectors, strict=True)], [])


def _write(session: Session, embedded: list[tuple[str, NDArray[np.float64]]]) -> None:
    if not embedded:
        return
    with driver_connection(session).cursor() as cursor:
        cursor.execute(_STAGE)
        with cursor.copy(_COPY) as copy:
            copy.set_types(["text", "float8[]"])
            for record_id, vector in embedded:
                copy.write_row((record_id, vector.tolist()))
    session.execute(_WRITE)
