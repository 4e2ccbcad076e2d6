"""Embeddings of another model, or of a text that has changed since: forgotten, and so pending again."""

from sqlalchemy import text, update
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.embeddings import IS_PENDING, replace_space
from pipeline.lease import check_lease
from schemas.own import EmbeddingSpace

_BATCH = 5_000

_NEXT = text("""
    SELECT max(id) AS last_id FROM (
        SELECT id FROM data_records
        WHERE "projectId" = :project_id AND id > :after ORDER BY id LIMIT :batch
    ) AS next
""")
# What no model of this name is known to have made of this very text.
_FORGET = text(f"""
    UPDATE data_records AS record
    SET embedding = '{{}}', "updatedAt" = now() AT TIME ZONE 'utc'
    WHERE record."projectId" = :project_id AND record.id > :after AND record.id <= :last_id
        AND NOT {IS_PENDING}
        AND (:is_all OR NOT EXISTS (
            SELECT FROM record_embeddings AS known
            WHERE known.digest = opspipe_embedding_digest(:model, record.content)
                AND known.record_id = record.id
        ))
""")  # noqa: S608 - put together from constants
_FORGET_ORIGIN = text("""
    DELETE FROM record_embeddings AS known
    USING data_records AS record
    WHERE record."projectId" = :project_id AND record.id > :after AND record.id <= :last_id
        AND known.digest = opspipe_embedding_digest(:model, record.content) AND known.record_id = record.id
""")


def forget_outdated(project_id: str, model: str, *, is_all: bool) -> None:
    """Let a model have a project, and empty the embeddings that it has not made of the present texts.

    In batches, each a transaction; doing it twice changes nothing more.

    Args:
        project_id: the project.
        model: the name of the model that embeds from now on.
        is_all: forget this model's embeddings too, because the name means another model by now.

    Raises:
        LeaseLostError: the work is not wanted any more.
    """
    with transaction() as session:
        replace_space(session, project_id, model)
        space = session.get_one(EmbeddingSpace, project_id)
        replaced = list(space.replaced_models)
        if is_all:
            replaced.append(model)
            space.dimensions = None
    after: str | None = ""
    while after is not None:
        check_lease()
        with transaction() as session:
            after = _forget_batch(session, project_id, model, replaced, after=after, is_all=is_all)
    with transaction() as session:
        session.execute(
            update(EmbeddingSpace)
            .where(EmbeddingSpace.project_id == project_id, EmbeddingSpace.model == model)
            .values(replaced_models=[])
        )


def _forget_batch(
    session: Session, project_id: str, model: str, replaced: list[str], *, after: str, is_all: bool
) -> str | None:
    last_id: str | None = session.scalar(_NEXT, {"project_id": project_id, "after": after, "batch": _BATCH})
    if last_id is None:
        return None
    batch = {"project_id": project_id, "after": after, "last_id": last_id}
    for name in replaced:
        session.execute(_FORGET_ORIGIN, {**batch, "model": name})
    session.execute(_FORGET, {**batch, "model": model, "is_all": is_all})
    return last_id
