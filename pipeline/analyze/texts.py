"""Records as reviewers see them: with their stored embedding where it is known what made it of which text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, and_, case, exists, func, null, select
from sqlalchemy.orm import Session

from pipeline.analyze.review import RecordText
from pipeline.embeddings import read_space
from schemas.own import RecordEmbedding
from schemas.reference import DataRecord


def read_record_texts(
    session: Session, ids: Sequence[str], *, project_id: str, model: str
) -> list[RecordText]:
    """Read records of a project, in order of their ids; those that are gone are left out.

    Args:
        session: the transaction to ask in.
        ids: the records.
        project_id: the project that they are of.
        model: the model whose embeddings are of use. A record brings its own only if this is the project's
            model and is known to have made it of the record's present text.
    """
    space = read_space(session, project_id)
    embedding: ColumnElement[Any] = null()
    if space is not None and space.model == model:
        is_own = exists().where(
            RecordEmbedding.record_id == DataRecord.id,
            RecordEmbedding.digest == func.opspipe_embedding_digest(space.maker, DataRecord.content),
        )
        # Other clients write to the same column.
        is_as_long = func.cardinality(DataRecord.embedding) == space.dimensions
        embedding = case((and_(is_own, is_as_long), DataRecord.embedding))
    rows = session.execute(
        select(DataRecord.id, DataRecord.content, embedding.label("embedding"))
        .where(DataRecord.id.in_(ids))
        .order_by(DataRecord.id)
    )
    # As floats: a null, which another client may have written, is then not finite, and so of no use.
    return [
        RecordText(
            row.id, row.content, np.asarray(row.embedding, dtype=np.float64) if row.embedding else None
        )
        for row in rows
    ]
