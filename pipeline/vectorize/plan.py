"""Planning a vectorize stage: which records go together, so that equal texts are embedded once.

Records whose text comes first are cut into chunks. Those that repeat an earlier one's text come in chunks of
their own behind them, which find the embedding and copy it.
"""

from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline import flow
from pipeline.ai import open_provider, require_models, run
from pipeline.database import transaction
from pipeline.embeddings import IS_PENDING, enter_space
from pipeline.ledger import Claim, PlannedChunk
from pipeline.settings import get_settings
from pipeline.system_settings import read_ai_config
from pipeline.vectorize.outdated import forget_outdated
from pipeline.vectorize.scope import Scope, is_of_project, read_scope

# Calls of a server a chunk: enough that reading, writing and the ledger cost little beside them.
_CALLS_A_CHUNK = 16

# Pending records in order of their ids; each knows whether another one has had its text before.
_PENDING = """
    SELECT record.id, row_number() OVER (PARTITION BY md5(record.content) ORDER BY record.id) > 1 AS
    is_repeated
    FROM data_records AS record
    WHERE {condition} AND {is_pending}
"""
# A chunk is a range of ids where no other record can lie between, else a list of ids.
_FIRST_TEXTS = """
    SELECT
        min(id) AS first_id, max(id) AS last_id, count(*) FILTER (WHERE NOT is_repeated) AS record_count,
        CASE WHEN :is_of_project OR bool_or(is_repeated)
            THEN array_agg(id ORDER BY id) FILTER (WHERE NOT is_repeated) END AS ids
    FROM (
        SELECT id, is_repeated,
            (count(*) FILTER (WHERE NOT is_repeated) OVER (ORDER BY id) - 1) / :size AS number
        FROM ({pending}) AS pending
    ) AS numbered
    GROUP BY number ORDER BY number
"""
_REPEATED_TEXTS = "SELECT id FROM ({pending}) AS pending WHERE is_repeated ORDER BY id"


# Records that their own job is going to embed are left to it: nothing is paid for twice.
_OF_NOBODY = """
    AND (record."ingestJobId" IS NULL OR record."ingestJobId" NOT IN (
        SELECT job.id FROM ingest_jobs AS job JOIN work_jobs AS work ON work.ingest_job_id = job.id
        WHERE job."projectId" = :project_id AND job.status IN ('PENDING', 'PROCESSING', 'QUEUED_FOR_VEC')
            AND CAST(work.options ->> 'embed' AS boolean)
    ))
"""


def plan_vectorize(held: Claim) -> None:
    """Split the records without embedding into chunks.

    Raises:
        LeaseLostError: somebody else planned it, or the job was stopped.
        TransientError: the provider is not there for the moment.
        FatalError: the provider or its model cannot be used, or the project has embeddings of another model.
    """
    with transaction() as session:
        config, scope = read_ai_config(session), read_scope(session, held)
    provider = open_provider(config)
    run(require_models(provider, embedding=True, llm=False))
    if is_of_project(held):
        generation = held.ref.job_id if held.options["reembed"] else ""
        forget_outdated(scope.project_id, provider.embedding_model, generation=generation)
    size = get_settings().embed_batch * (1 if provider.name == "local" else _CALLS_A_CHUNK)
    with transaction() as session:
        flow.hold_project(session, scope.project_id)
        enter_space(session, scope.project_id, provider.embedding_model)
        chunks = _chunks(session, scope, size, is_of_project=is_of_project(held))
        flow.finish_plan(session, held, list(chunks))


def _chunks(session: Session, scope: Scope, size: int, *, is_of_project: bool) -> Iterator[PlannedChunk]:
    condition = scope.condition + (_OF_NOBODY if is_of_project else "")
    pending = _PENDING.format(condition=condition, is_pending=IS_PENDING)
    question = text(_FIRST_TEXTS.format(pending=pending))
    parameters = {**scope.parameters, "size": size, "is_of_project": is_of_project}
    for row in session.execute(question, parameters):
        span = {"ids": row.ids} if row.ids else {"first_id": row.first_id, "last_id": row.last_id}
        yield PlannedChunk(span, row.record_count)
    repeated = session.scalars(text(_REPEATED_TEXTS.format(pending=pending)), scope.parameters).all()
    for start in range(0, len(repeated), size):
        ids = repeated[start : start + size]
        yield PlannedChunk({"ids": list(ids), "is_repeated": True}, len(ids))
