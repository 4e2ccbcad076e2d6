"""Making AnalyticsJobs: one on request, or one that follows an ingest job. One a project at a time."""

from contextlib import nullcontext
from dataclasses import dataclass

from sqlalchemy import exists, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session, aliased

from pipeline import ledger
from pipeline.audit import SYSTEM, acting, note
from pipeline.errors import ConflictError, InputError
from pipeline.idempotency import claim_key
from pipeline.ids import new_cuid
from pipeline.ledger import ChunkRef
from pipeline.projects import has_guidelines
from pipeline.system_settings import read_ai_config
from schemas.enums import JobStatus, Stage
from schemas.options import AnalysisOptions
from schemas.own import WorkJob
from schemas.reference import AnalyticsJob, IngestJob, Project

NO_LANGUAGE_MODEL = (
    "ratings need a language model, and the provider local has none: set another with "
    "`opspipe settings set ai_provider lmstudio` (or openrouter), its ai_host and its llm_model"
)


@dataclass(frozen=True)
class AnalysisStart:
    """A new AnalyticsJob and the chunk to publish for it."""

    job_id: str
    plan: ChunkRef


def require_guidelines(session: Session, project_id: str) -> None:
    """Refuse an analysis that has nothing to hold the records against.

    Raises:
        InputError: the project has no guidelines.
    """
    if not has_guidelines(session, project_id):
        raise InputError(
            "the project has no guidelines to analyze against: "
            "store them first with `opspipe guidelines PROJECT FILE.pdf`"
        )


def start_analysis(
    session: Session, project_id: str, options: AnalysisOptions, *, follows_job_id: str | None = None
) -> AnalysisStart:
    """Put an analysis of a project on the ledger.

    Args:
        session: the transaction to do it in.
        project_id: the project.
        options: which records, and what is wanted of them.
        follows_job_id: the ingest job that asked for it beforehand; None where somebody asks now.

    Raises:
        InputError: the project has no guidelines, or ratings are wanted and no language model is set.
        ConflictError: the project has an active analysis; names it.
        KeyTakenError: the same request made its job already (see `pipeline.idempotency`).
    """
    job_id = new_cuid()
    if follows_job_id is None:
        claim_key(session, job_id)
    require_guidelines(session, project_id)
    if options.likert and read_ai_config(session).provider == "local":
        raise InputError(NO_LANGUAGE_MODEL)
    _insert_job(session, job_id, project_id)
    session.add(
        WorkJob(
            job_id=job_id,
            analytics_job_id=job_id,
            follows_job_id=follows_job_id,
            options=options.model_dump(mode="json"),
        )
    )
    session.flush()
    # The pipeline starts what follows, in whoever's process that happens.
    with acting(SYSTEM) if follows_job_id else nullcontext():
        note(
            session,
            "job.analyze",
            "job",
            job_id,
            project_id,
            scope=options.scope,
            likert=options.likert,
            budget_usd=options.budget_usd,
            follows=follows_job_id,
        )
    return AnalysisStart(job_id, ledger.open_stage(session, job_id, Stage.ANALYZE))


def _insert_job(session: Session, job_id: str, project_id: str) -> None:
    # The database holds "one active analysis a project"; looking first would only be a guess.
    insertion = (
        upsert(AnalyticsJob)
        .values(id=job_id, project_id=project_id)
        .on_conflict_do_nothing()
        .returning(AnalyticsJob.id)
    )
    while session.scalar(insertion) is None:
        active = _active_analysis(session, project_id)
        # None: it has ended since, and the place is free.
        if active is not None:
            raise ConflictError(f"the project is being analyzed already by job {active}", job_id=active)


def _active_analysis(session: Session, project_id: str) -> str | None:
    return session.scalar(
        select(AnalyticsJob.id).where(
            AnalyticsJob.project_id == project_id,
            AnalyticsJob.status.in_([JobStatus.PENDING, JobStatus.PROCESSING]),
        )
    )


def start_due_analyses(session: Session) -> list[AnalysisStart]:
    """Start the analyses that completed ingest jobs asked for and that nobody has started yet.

    A project whose analysis is still running gets its next one at a later call.
    """
    follower = aliased(WorkJob)
    due = session.execute(
        select(IngestJob.id, IngestJob.project_id)
        .join(WorkJob, WorkJob.ingest_job_id == IngestJob.id)
        .join(Project, Project.id == IngestJob.project_id)
        .where(
            IngestJob.status == JobStatus.COMPLETED,
            WorkJob.options["analyze"].as_boolean(),
            ~exists().where(follower.follows_job_id == IngestJob.id),
            ~exists().where(
                AnalyticsJob.project_id == IngestJob.project_id,
                AnalyticsJob.status.in_([JobStatus.PENDING, JobStatus.PROCESSING]),
            ),
        )
        .order_by(IngestJob.created_at)
        # Two sweepers, or a sweeper and a worker, do not start the same one; and nobody waits here for a
        # project that is being deleted, which would wait for the job.
        .with_for_update(of=[WorkJob, Project], key_share=True, skip_locked=True)
    ).all()
    started, projects = [], set()
    for job_id, project_id in due:
        if project_id in projects or not has_guidelines(session, project_id):
            continue
        projects.add(project_id)
        try:
            with session.begin_nested():
                started.append(start_analysis(session, project_id, AnalysisOptions(), follows_job_id=job_id))
        except ConflictError:
            continue  # somebody started one since the question; the next call sees to it
    return started
