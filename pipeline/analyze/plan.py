"""Planning an analysis: which records, against which rules, by which model."""

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from pipeline import flow
from pipeline.ai import analyst
from pipeline.analyze.context import AnalysisContext
from pipeline.database import transaction
from pipeline.errors import FatalError, InputError
from pipeline.ledger import Claim, PlannedChunk
from pipeline.projects import load_guidelines
from pipeline.settings import get_settings
from pipeline.system_settings import read_ai_settings
from schemas.enums import AnalysisScope
from schemas.options import AnalysisOptions
from schemas.own import Alignment
from schemas.reference import AnalyticsJob, DataRecord


def plan_analyze(held: Claim) -> None:
    """Choose the records that the scope names and split them into batches of ids.

    Raises:
        FatalError: the project or its guidelines are gone or cannot be read.
        LeaseLostError: somebody else planned it, or the job was stopped.
    """
    context = _read_context(held)
    with transaction() as session:
        ids = _records_in_scope(session, context, AnalysisOptions.model_validate(held.options).scope)
        size = get_settings().embed_batch
        batches = [ids[start : start + size] for start in range(0, len(ids), size)]
        # The ids themselves and not a range: records that arrive meanwhile belong to the next analysis.
        chunks = [PlannedChunk({"ids": batch}, len(batch)) for batch in batches]
        flow.finish_plan(session, held, chunks, context=context.model_dump(mode="json"))


def _read_context(held: Claim) -> AnalysisContext:
    with transaction() as session:
        project_id = session.scalar(select(AnalyticsJob.project_id).where(AnalyticsJob.id == held.ref.job_id))
        if project_id is None:
            raise FatalError(f"the project of job {held.ref.job_id} is gone")
        try:
            guidelines = load_guidelines(session, project_id)
        except InputError as error:
            raise FatalError(f"the project's guidelines cannot be used: {error}") from error
        if guidelines is None:
            raise FatalError("the project has no guidelines any more: store them and retry")
        provider = read_ai_settings(session).provider
    reviewer = analyst(provider)
    return AnalysisContext(
        project_id=project_id,
        provider=provider,
        model=reviewer.model,
        prompt_version=reviewer.prompt_version,
        guidelines_sha256=guidelines.sha256,
    )


def _records_in_scope(session: Session, context: AnalysisContext, scope: AnalysisScope) -> list[str]:
    question = (
        select(DataRecord.id)
        .outerjoin(Alignment, Alignment.record_id == DataRecord.id)
        .where(DataRecord.project_id == context.project_id)
        .order_by(DataRecord.id)
    )
    if scope is not AnalysisScope.ALL:
        question = question.where(_is_wanted(context, scope))
    return list(session.scalars(question))


def _is_wanted(context: AnalysisContext, scope: AnalysisScope) -> ColumnElement[bool]:
    missing = Alignment.record_id.is_(None)
    if scope is AnalysisScope.MISSING:
        return missing
    is_current = and_(
        Alignment.guidelines_sha256 == context.guidelines_sha256,
        Alignment.llm_model == context.model,
        Alignment.prompt_version == context.prompt_version,
    )
    return or_(missing, ~is_current)
