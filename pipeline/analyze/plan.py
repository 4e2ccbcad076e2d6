"""Planning an analysis: which records, against which guidelines."""

from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipeline import flow
from pipeline.ai import Provider, open_provider, require_models, run
from pipeline.analyze.context import AnalysisContext
from pipeline.analyze.estimate import require_price
from pipeline.analyze.needs import Needs
from pipeline.analyze.reviewers import open_reviewer
from pipeline.analyze.start import NO_LANGUAGE_MODEL
from pipeline.database import transaction
from pipeline.errors import FatalError, InputError
from pipeline.guidelines import Guidelines
from pipeline.ledger import Claim, PlannedChunk
from pipeline.projects import load_guidelines
from pipeline.settings import get_settings
from pipeline.system_settings import read_ai_config
from schemas.options import AnalysisOptions
from schemas.reference import AnalyticsJob


def plan_analyze(held: Claim) -> None:
    """Choose the records that the scope names and split them into batches of ids.

    Raises:
        FatalError: the project or its guidelines are gone or cannot be read, the provider or its model
            cannot be used, or a budget is set and no price is known.
        TransientError: the provider is not there for the moment.
        LeaseLostError: somebody else planned it, or the job was stopped.
    """
    options = AnalysisOptions.model_validate(held.options)
    context = _read_context(held)
    with transaction() as session:
        guidelines = require_readable(load_guidelines, session, context.project_id)
        provider = open_provider(read_ai_config(session))
    require_able(provider, options)
    with transaction() as session:
        reviewer = open_reviewer(provider)
        needs = Needs(context.project_id, guidelines.sha256, reviewer, options, held.ref.job_id)
        ids = list(session.scalars(needs.question()))
        size = get_settings().embed_batch
        batches = [ids[start : start + size] for start in range(0, len(ids), size)]
        # The ids themselves and not a range: records that arrive meanwhile belong to the next analysis.
        chunks = [PlannedChunk({"ids": batch}, len(batch)) for batch in batches]
        flow.finish_plan(session, held, chunks, context=context.model_dump(mode="json"))


def require_able(provider: Provider, options: AnalysisOptions) -> None:
    """See that a provider can do what an analysis asks.

    Raises:
        FatalError: it cannot; says what to set.
        TransientError: it is not there for the moment.
    """
    if provider.name != "local":
        run(require_models(provider, embedding=False, llm=True))
        if options.budget_usd is not None:
            require_price(provider)
    elif options.likert:
        raise FatalError(NO_LANGUAGE_MODEL)


def require_readable(
    read: Callable[[Session, str], Guidelines | None], session: Session, project_id: str
) -> Guidelines:
    """Give a project's guidelines as they are now.

    Raises:
        FatalError: there are none any more, or they cannot be used; says what to do.
    """
    try:
        guidelines = read(session, project_id)
    except InputError as error:
        raise FatalError(f"the project's guidelines cannot be used: {error}") from error
    if guidelines is None:
        raise FatalError(
            "the project has no guidelines any more: store them with `opspipe guidelines PROJECT FILE.pdf`, "
            "then retry the job"
        )
    return guidelines


def _read_context(held: Claim) -> AnalysisContext:
    with transaction() as session:
        project_id = session.scalar(select(AnalyticsJob.project_id).where(AnalyticsJob.id == held.ref.job_id))
        if project_id is None:
            raise FatalError(f"the project of job {held.ref.job_id} is gone")
    return AnalysisContext(project_id=project_id)
