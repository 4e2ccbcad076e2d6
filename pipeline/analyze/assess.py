"""Assessing a batch: each record against every rule, the report and its provenance written back together."""

import numpy as np
from sqlalchemy import bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pipeline import flow
from pipeline.ai import Assessment, RecordText, analyst
from pipeline.analyze.context import AnalysisContext
from pipeline.database import transaction
from pipeline.ledger import ChunkResult, Claim
from pipeline.projects import kept_rules
from schemas.own import Alignment
from schemas.reference import DataRecord

_RESULT_COLUMNS = (
    "score",
    "report",
    "provider",
    "llm_model",
    "prompt_version",
    "guidelines_sha256",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "job_id",
)


def assess_chunk(held: Claim) -> None:
    """Assess one batch of records and store the reports; running it twice leaves one result a record.

    Raises:
        LeaseLostError: another worker has the chunk, or the job was stopped; nothing was stored.
        TransientError: the provider or the database is not there for the moment.
        FatalError: the provider refuses all work.
    """
    context = AnalysisContext.model_validate(held.context)
    with transaction() as session:
        rules = kept_rules(session, context.guidelines_sha256)
        records = _read_records(session, held.span["ids"])
    assessments = analyst(context.provider).assess(records, rules) if records else []
    with transaction() as session:
        _store(session, held, context, list(zip(records, assessments, strict=True)))
        # Records that were deleted meanwhile are settled too.
        flow.finish_chunk(session, held, ChunkResult(done=held.record_count))


def _read_records(session: Session, ids: list[str]) -> list[RecordText]:
    rows = session.execute(
        select(DataRecord.id, DataRecord.content, DataRecord.embedding)
        .where(DataRecord.id.in_(ids))
        .order_by(DataRecord.id)
    )
    return [
        RecordText(row.id, row.content, np.asarray(row.embedding) if row.embedding else None) for row in rows
    ]


def _store(
    session: Session, held: Claim, context: AnalysisContext, results: list[tuple[RecordText, Assessment]]
) -> None:
    if not results:
        return
    # A record that is deleted at this moment takes its result along: only rows that are still there count.
    alive = set(
        session.scalars(
            select(DataRecord.id)
            .where(DataRecord.id.in_([record.id for record, _ in results]))
            .with_for_update(key_share=True)
        )
    )
    results = [(record, assessment) for record, assessment in results if record.id in alive]
    if not results:
        return
    insert = upsert(Alignment)
    session.execute(
        insert.on_conflict_do_update(
            index_elements=["record_id"],
            set_={name: insert.excluded[name] for name in _RESULT_COLUMNS} | {"created_at": func.now()},
        ),
        [_alignment_row(held, context, record, assessment) for record, assessment in results],
    )
    session.connection().execute(
        update(DataRecord)
        .where(DataRecord.id == bindparam("record_id"))
        .values(alignment_analysis=bindparam("markdown"), updated_at=func.timezone("utc", func.now())),
        [
            {"record_id": record.id, "markdown": assessment.report.to_markdown()}
            for record, assessment in results
        ],
    )


def _alignment_row(
    held: Claim, context: AnalysisContext, record: RecordText, assessment: Assessment
) -> dict[str, object]:
    return {
        "record_id": record.id,
        "score": assessment.report.score,
        "report": assessment.report.model_dump(mode="json"),
        "provider": context.provider,
        "llm_model": context.model,
        "prompt_version": context.prompt_version,
        "guidelines_sha256": context.guidelines_sha256,
        "input_tokens": assessment.input_tokens,
        "output_tokens": assessment.output_tokens,
        "cost_usd": assessment.cost_usd,
        "job_id": held.ref.job_id,
    }
