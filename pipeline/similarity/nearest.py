"""Nearest records by cosine similarity, exact: by pgvector where the database has it, else by numpy.

pgvector computes with 32-bit numbers. What it finds nearest, and a few more, are computed again with all
digits. Where one that it did not give may be as near as the last of the answer, all that may be are computed
again, so that both ways give the same answer.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Row, select, text
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from pipeline.ai import Vectors, at_once, embed_or_raise, open_provider
from pipeline.database import one_line, transaction
from pipeline.embeddings import read_space
from pipeline.errors import InputError, NotFoundError
from pipeline.similarity.pgvector import Pgvector, find_pgvector, has_length
from pipeline.similarity.stream import Batch, make_units, stream_embeddings
from pipeline.system_settings import read_ai_config
from schemas.reference import DataRecord

log = logging.getLogger(__name__)

# Beyond those asked for: two of them may change places when computed with all digits.
_SLACK = 16
# Two equal vectors multiply with a third to the same but for the last digits.
_DIGITS = 12

_OTHERS = """
    FROM data_records AS record
    WHERE record."projectId" = :project_id AND record.id <> :excluded AND {condition}
"""


@dataclass(frozen=True)
class Neighbour:
    """A record and its cosine similarity to what was asked about, -1 to 1."""

    id: str
    type: str
    content: str
    similarity: float


@dataclass(frozen=True)
class _Question:
    project_id: str
    vector: Vectors
    excluded: str = ""

    def parameters(self) -> dict[str, Any]:
        """Give the parameters of `_OTHERS`."""
        return {"project_id": self.project_id, "excluded": self.excluded}


def nearest_records(
    session: Session, record_id: str, *, project_id: str | None = None, limit: int = 10
) -> list[Neighbour]:
    """Find the records of the same project that are nearest to a record, the nearest first.

    Args:
        session: the transaction to ask in.
        record_id: a record with an embedding.
        project_id: the project that it has to be of; None for any.
        limit: how many.

    Raises:
        NotFoundError: there is no such record.
        InputError: its embedding is pending; says what to do.
    """
    record = session.execute(
        select(DataRecord.project_id, DataRecord.embedding).where(DataRecord.id == record_id)
    ).first()
    if record is None or project_id not in {None, record.project_id}:
        raise NotFoundError(f"there is no record {record_id!r}")
    vector = _unit(record.embedding)
    if vector is None:
        raise InputError(
            f"record {record_id} has no embedding to compare: "
            f"`opspipe vectorize {record.project_id}` embeds what is pending"
        )
    return _nearest(session, _Question(record.project_id, vector, record_id), limit)


def search_records(project_id: str, content: str, *, limit: int = 10) -> list[Neighbour]:
    """Find a project's records that are nearest to a text, the nearest first.

    Args:
        project_id: the project.
        content: the text; embedded by the configured model, outside of any transaction.
        limit: how many.

    Raises:
        InputError: the text is blank, or the project has no embeddings of the configured model.
        TransientError, FatalError: the model could not be called.
    """
    if not content.strip():
        raise InputError("the text to search for is blank")
    with transaction() as session:
        provider = open_provider(read_ai_config(session))
        space = read_space(session, project_id)
    if space is None or space.dimensions is None:
        raise InputError("the project has no embeddings: `opspipe vectorize PROJECT` makes them")
    if space.model != provider.embedding_model:
        raise InputError(
            f"the project's embeddings are of the model {space.model!r} and the settings say "
            f"{provider.embedding_model!r}: set embedding_model back, or `opspipe vectorize PROJECT`"
        )
    with at_once():
        vector = _unit(embed_or_raise(provider, [content])[0])
    if vector is None or len(vector) != space.dimensions:
        raise InputError(
            f"the model {space.model!r} gives vectors of another length than the project's: "
            "`opspipe vectorize PROJECT --all` embeds it anew"
        )
    with transaction() as session:
        return _nearest(session, _Question(project_id, vector), limit)


def _unit(embedding: Sequence[float] | Vectors) -> Vectors | None:
    vector = np.asarray(embedding, dtype=np.float64)
    if vector.ndim != 1:
        return None
    units, _ = make_units(vector[np.newaxis])
    return units[0] if len(units) else None


def _nearest(session: Session, question: _Question, limit: int) -> list[Neighbour]:
    pgvector = find_pgvector(session, dimensions=len(question.vector))
    best: list[tuple[float, str]] | None = None
    if pgvector is not None:
        try:
            with session.begin_nested():
                best = _by_pgvector(session, pgvector, question, limit)
        except DataError as error:
            # Some record's embedding, which another client wrote, is none that pgvector takes.
            log.warning("nearest records are found without pgvector: %s", one_line(error))
    if best is None:
        best = _by_numpy(session, question, limit)
    return _read(session, best)


def _by_pgvector(
    session: Session, pgvector: Pgvector, question: _Question, limit: int
) -> list[tuple[float, str]]:
    condition, distance = pgvector.condition("record.embedding"), pgvector.distance(":query")
    others = _OTHERS.format(condition=condition)
    parameters = {**question.parameters(), "query": pgvector.write(question.vector), "count": limit + _SLACK}
    nearest = f"SELECT record.id {others} ORDER BY {distance} LIMIT :count"
    ids = session.scalars(text(nearest), parameters).all()
    found = _ask(
        session,
        "SELECT id, embedding FROM data_records WHERE id = ANY(:ids)",
        {"ids": ids},
        question,
        len(ids),
    )
    least = found[limit - 1][0] if len(found) >= limit else -1.0
    last = next((similarity for similarity, record_id in found if record_id == ids[-1]), 1.0)
    if len(ids) < limit + _SLACK or least - last > 2 * pgvector.error:
        return found[:limit]
    # CASE: the distance is asked of none that pgvector does not take, whatever comes first.
    may_be_nearer = f"CASE WHEN {condition} THEN {distance} <= :most END"
    parameters["most"] = 1 - least + pgvector.error
    everything = f"SELECT record.id, record.embedding {others} AND {may_be_nearer}"
    return _ask(session, everything, parameters, question, limit)


def _by_numpy(session: Session, question: _Question, limit: int) -> list[tuple[float, str]]:
    others = _OTHERS.format(condition=has_length("record.embedding", len(question.vector)))
    everything = f"SELECT record.id, record.embedding {others}"
    return _ask(session, everything, question.parameters(), question, limit)


def _ask(
    session: Session, query: str, parameters: Mapping[str, Any], question: _Question, limit: int
) -> list[tuple[float, str]]:
    found = stream_embeddings(session, query, parameters, dimensions=len(question.vector))
    return _best(found, question.vector, limit)


def _best(batches: Iterable[Batch], query: Vectors, limit: int) -> list[tuple[float, str]]:
    best: list[tuple[float, str]] = []
    for batch in batches:
        similarities = np.clip(np.round(batch.vectors @ query, _DIGITS), -1.0, 1.0)
        least = best[-1][0] if len(best) == limit else -2.0
        if len(similarities) > limit:
            least = max(least, float(np.partition(similarities, -limit)[-limit]))
        best += [
            (float(similarities[place]), batch.rows[place][0])
            for place in np.flatnonzero(similarities >= least).tolist()
        ]
        # Ties are broken by id, so that the answer does not depend on the order of reading.
        best = sorted(best, key=lambda entry: (-entry[0], entry[1]))[:limit]
    return best


def _read(session: Session, best: Sequence[tuple[float, str]]) -> list[Neighbour]:
    rows: dict[str, Row[str, str, str]] = {
        row.id: row
        for row in session.execute(
            select(DataRecord.id, DataRecord.type, DataRecord.content).where(
                DataRecord.id.in_([found for _, found in best])
            )
        )
    }
    return [
        Neighbour(found, rows[found].type, rows[found].content, similarity)
        for similarity, found in best
        if found in rows
    ]
