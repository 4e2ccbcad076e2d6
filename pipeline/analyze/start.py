"""Making AnalyticsJobs: one on request, or one that follows an ingest job. One a project at a time."""

from dataclasses import dataclass

from sqlalchemy import exists, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session, aliased

from pipeline import ledger
from pipeline.errors import ConflictError, InputError
from pipeline.ids import new_cuid
from pipeline.ledger import ChunkRef
from pipeline.projects import has_guidelines
from schemas.enums import JobStatus, Stage
from schemas.options import AnalysisOptions
from schemas.own import WorkJob
from schemas.reference import AnalyticsJob, IngestJob


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

    Raises:
        InputError: the project has no guidelines.
        ConflictError: the project has an active analysis; names it.
    """
    require_guidelines(session, project_id)
    job_id = _insert_job(session, project_id)
    session.add(
        WorkJob(
            job_id=job_id,
            analytics_job_id=job_id,
            follows_job_id=follows_job_id,
            options=options.model_dump(mode="json"),
        )
    )
    session.flush()
    return AnalysisStart(job_id, ledger.open_stage(session, job_id, Stage.ANALYZE))


def _insert_job(session: Session, project_id: str) -> str:
    # The database holds "one active analysis a project"; looking first would only be a guess.
    job_id: str | None = None
    while job_id is None:
        job_id = session.scalar(
            upsert(AnalyticsJob)
            .values(id=new_cuid(), project_id=project_id)
            .on_conflict_do_nothing()
            .returning(AnalyticsJob.id)
        )
        if job_id is None:
            active = _active_analysis(session, project_id)
            # None: it has ended since, and the place is free.
            if active is not None:
                raise ConflictError(f"the project is being analyzed already by job {active}", job_id=active)
    return job_id


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
        # Two sweepers, or a sweeper and a worker, do not start the same one.
        .with_for_update(of=WorkJob, skip_locked=True)
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
