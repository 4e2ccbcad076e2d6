"""Embeddings of another model, or of a text that has changed since: forgotten, and so pending again."""

from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline import flow
from pipeline.database import transaction
from pipeline.embeddings import IS_PENDING, replace_space
from pipeline.lease import check_lease

_BATCH = 5_000

_NEXT = text("""
    SELECT max(id) AS last_id FROM (
        SELECT id FROM data_records
        WHERE "projectId" = :project_id AND id > :after ORDER BY id LIMIT :batch
    ) AS next
""")
# What the project's maker is not known to have made of this very text; nobody is to copy it either.
_FORGET = text(f"""
    WITH forgotten AS (
        UPDATE data_records AS record
        SET embedding = '{{}}', "updatedAt" = now() AT TIME ZONE 'utc'
        WHERE record."projectId" = :project_id AND record.id > :after AND record.id <= :last_id
            AND NOT {IS_PENDING}
            AND NOT EXISTS (
                SELECT FROM record_embeddings AS known
                WHERE known.record_id = record.id
                    AND known.digest = opspipe_embedding_digest(:maker, record.content)
            )
        RETURNING record.id
    )
    DELETE FROM record_embeddings AS known USING forgotten WHERE known.record_id = forgotten.id
""")  # noqa: S608 - put together from constants


def forget_outdated(project_id: str, model: str, *, generation: str) -> None:
    """Let a model have a project, and empty the embeddings that it has not made of the present texts.

    In batches, each a transaction; doing it twice changes nothing more.

    Args:
        project_id: the project.
        model: the name of the model that embeds from now on.
        generation: forget what this name has made before, too: it means another model by now; empty keeps it.

    Raises:
        LeaseLostError: the work is not wanted any more.
    """
    with transaction() as session:
        flow.hold_project(session, project_id)
        maker = replace_space(session, project_id, model, generation=generation).maker
    after: str | None = ""
    while after is not None:
        check_lease()
        with transaction() as session:
            flow.hold_project(session, project_id)
            after = _forget_batch(session, project_id, maker, after)


def _forget_batch(session: Session, project_id: str, maker: str, after: str) -> str | None:
    batch = {"project_id": project_id, "after": after}
    last_id: str | None = session.scalar(_NEXT, {**batch, "batch": _BATCH})
    if last_id is not None:
        session.execute(_FORGET, {**batch, "last_id": last_id, "maker": maker})
    return last_id
