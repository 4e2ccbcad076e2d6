"""Which model made which embedding: spaces of projects, digests of texts, finding an embedding again.

Vectors of two models cannot be compared, so that a project's embeddings are all of one model. Nothing here
calls a model or writes an embedding.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import Select, func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pipeline.database import driver_connection, transaction
from pipeline.errors import FatalError
from pipeline.pgarrays import pack_texts, pack_uuids, takes_packed
from schemas.own import EmbeddingSpace
from schemas.reference import DataRecord

Digest = bytes
_DIGEST_BYTES = 16

# Whether a row named `record` has no embedding: an array without numbers takes 16 bytes at most, one with a
# number 29 or more. Unlike `cardinality`, this fetches no vector, which lies beside the table.
_EMPTY_BYTES = 16
IS_PENDING = f"pg_column_size(record.embedding) <= {_EMPTY_BYTES}"

_KNOWN = "SELECT DISTINCT digest FROM record_embeddings WHERE digest = ANY(%(digests)b)"
# The text itself is compared too: a record's text may have changed since it was embedded.
_FIND = """
    SELECT DISTINCT ON (wanted.digest) wanted.digest, known.record_id, cardinality(record.embedding)
    FROM unnest(%(digests)b::uuid[], %(texts)b::text[]) AS wanted (digest, content)
    JOIN record_embeddings AS known ON known.digest = wanted.digest
    JOIN data_records AS record ON record.id = known.record_id
    WHERE record.content = wanted.content
        AND CASE WHEN %(dimensions)s::int IS NULL THEN cardinality(record.embedding) > 0
            ELSE cardinality(record.embedding) = %(dimensions)s END
    ORDER BY wanted.digest, known.record_id
"""
# From somewhere on in the order of digests, and from the beginning where that was the end.
_FORGET_GONE = text("""
    WITH looked_at AS (
        SELECT digest, record_id FROM record_embeddings
        WHERE digest >= CAST(:start AS uuid) ORDER BY digest, record_id LIMIT :limit
    ), gone AS (
        DELETE FROM record_embeddings AS known USING looked_at
        WHERE known.record_id = looked_at.record_id
            AND NOT EXISTS (SELECT FROM data_records AS record WHERE record.id = looked_at.record_id)
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM looked_at) AS looked_at, (SELECT count(*) FROM gone) AS gone
""")


@dataclass(frozen=True)
class Space:
    """What a project's embeddings are made by; `dimensions` is None before the first is stored.

    `generation` changes when everything is embedded anew: the name may mean another model since.
    """

    model: str
    dimensions: int | None
    generation: str = ""

    @property
    def maker(self) -> str:
        """Who makes embeddings here, for digests: equal makers make the same of equal texts."""
        return f"{self.model}\x1f{self.generation}" if self.generation else self.model


@dataclass(frozen=True)
class Known:
    """Records that have the embeddings of texts already, by digest, and how long those are."""

    sources: Mapping[Digest, str]
    dimensions: int | None


def digest_text(maker: str, content: str) -> Digest:
    """Identify what somebody (`Space.maker`) makes of a text: the first 16 bytes of a SHA-256 over both.

    In SQL it is the UUID `opspipe_embedding_digest(maker, content)`; a text holds no NUL in PostgreSQL, so
    that the parts cannot run together.
    """
    return hashlib.sha256(maker.encode() + b"\0" + content.encode()).digest()[:_DIGEST_BYTES]


def find_embedded(session: Session, texts: Mapping[Digest, str], *, dimensions: int | None) -> Known:
    """Find records that have the embedding of a text already, in any project.

    Args:
        session: the transaction to ask in.
        texts: digests (see `digest_text`) with their texts.
        dimensions: how long the embedding is to be; None for any length, as long as all have the same.
    """
    with takes_packed(driver_connection(session).cursor()) as cursor:
        cursor.execute(_KNOWN, {"digests": pack_uuids(list(texts))}, prepare=True)
        # Most texts are new, and texts are long: only those are sent that may be known.
        known = [row[0].bytes for row in cursor]
        if not known:
            return Known({}, dimensions)
        asked = {
            "digests": pack_uuids(known),
            "texts": pack_texts([texts[digest] for digest in known]),
            "dimensions": dimensions,
        }
        rows = cursor.execute(_FIND, asked).fetchall()
    lengths = {row[2] for row in rows}
    if len(lengths) > 1:
        return Known({}, dimensions)
    return Known({row[0].bytes: row[1] for row in rows}, lengths.pop() if lengths else dimensions)


def read_space(session: Session, project_id: str) -> Space | None:
    """Give the space of a project; None where nothing was embedded yet."""
    return _space(session, select(EmbeddingSpace).where(EmbeddingSpace.project_id == project_id))


def _space(session: Session, question: Select[EmbeddingSpace]) -> Space | None:
    row = session.scalar(question)
    return None if row is None else Space(row.model, row.dimensions, row.generation)


def enter_space(session: Session, project_id: str, model: str) -> None:
    """Say that embeddings of this model are going to be stored in a project.

    A project without embeddings takes the model.

    Raises:
        FatalError: the project's embeddings are of another model; says what to do.
    """
    space = read_space(session, project_id)
    if space is None:
        found = _found_dimensions(session, project_id)
        session.execute(
            upsert(EmbeddingSpace)
            .values(project_id=project_id, model=model, dimensions=found)
            .on_conflict_do_nothing()
        )
    elif space.dimensions is None:
        replace_space(session, project_id, model)
    require_model(session, project_id, model)


def require_model(session: Session, project_id: str, model: str) -> Space:
    """Refuse to mix models in a project; its model stays until this transaction ends.

    Raises:
        FatalError: the project's embeddings are of another model, or the project is gone.
    """
    question = select(EmbeddingSpace).where(EmbeddingSpace.project_id == project_id)
    space = _space(
        session, question.with_for_update(key_share=True, read=True).execution_options(populate_existing=True)
    )
    if space is None:
        raise FatalError(f"the project {project_id} is gone, or its embeddings were never planned")
    if space.model != model:
        raise FatalError(
            f"the project's embeddings are of the model {space.model!r} and the settings say {model!r}: "
            "their vectors cannot be compared. Embed the project anew with `opspipe vectorize PROJECT`, or "
            f"go back with `opspipe settings set embedding_model {space.model}`; then retry the job"
        )
    return space


def require_space(session: Session, project_id: str, made_in: Space, dimensions: int) -> bool:
    """Refuse vectors that do not go with the project's; the first ones decide how long all are.

    Args:
        session: the transaction that is to store them.
        project_id: the project.
        made_in: the project's space when they were begun.
        dimensions: how long they are.

    Returns:
        False where everything is being embedded anew since then: they are not to be stored.

    Raises:
        FatalError: as `require_model`, or the model gave another number of dimensions than before.
    """
    model = made_in.model
    space = require_model(session, project_id, model)
    if space.generation != made_in.generation:
        return False
    if space.dimensions is None:
        session.execute(
            update(EmbeddingSpace)
            .where(EmbeddingSpace.project_id == project_id, EmbeddingSpace.dimensions.is_(None))
            .values(dimensions=dimensions)
        )
        space = require_model(session, project_id, model)
    if space.dimensions != dimensions:
        raise FatalError(
            f"the model {model!r} answered with {dimensions} dimensions, and the project's embeddings have "
            f"{space.dimensions}: another model answers to this name now. Set embedding_model to the model "
            "that made them, or embed the project anew with `opspipe vectorize PROJECT --all`; then retry "
            "the job"
        )
    return True


def replace_space(session: Session, project_id: str, model: str, *, generation: str = "") -> Space:
    """Let a model have the project.

    Args:
        session: the transaction to do it in.
        project_id: the project.
        model: the model that embeds from now on.
        generation: begins a new one of this name, unless it has begun; empty leaves the one that is.
    """
    space = session.scalar(
        select(EmbeddingSpace).where(EmbeddingSpace.project_id == project_id).with_for_update()
    )
    if space is None:
        space = EmbeddingSpace(project_id=project_id, model=model, dimensions=None, generation=generation)
        session.add(space)
    elif space.model != model or generation not in {"", space.generation}:
        space.model, space.dimensions = model, None
        space.generation = generation or space.generation
    session.flush()
    return Space(space.model, space.dimensions, space.generation)


def _found_dimensions(session: Session, project_id: str) -> int | None:
    """Look what another client has stored: whatever made it, vectors of another length do not go with it."""
    return session.scalar(
        select(func.cardinality(DataRecord.embedding))
        .where(DataRecord.project_id == project_id, func.pg_column_size(DataRecord.embedding) > _EMPTY_BYTES)
        .limit(1)
    )


def forget_gone_records(*, limit: int = 100_000) -> int:
    """Forget where embeddings came from whose records are gone; gives how many.

    Looks at some of what is known, from a random place on: run now and then it comes past everything.

    Args:
        limit: how many to look at.
    """
    with transaction() as session:
        row = session.execute(_FORGET_GONE, {"start": uuid4(), "limit": limit}).one()
        forgotten, left = int(row.gone), limit - int(row.looked_at)
        if left > 0:
            row = session.execute(_FORGET_GONE, {"start": UUID(int=0), "limit": left}).one()
            forgotten += int(row.gone)
    return forgotten
