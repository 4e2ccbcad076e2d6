"""`/api/ingest`: jobs that are there. Programs name them by their whole id."""

from flask import Blueprint, Response, request
from sqlalchemy.orm import Session

from api.answers import answer, progress_of, spent_of
from api.auth import require_role, require_writer
from pipeline.database import transaction
from pipeline.errors import InputError, NotFoundError
from pipeline.ingest.rejects import write_rejects
from pipeline.jobs import JobView, cancel_job, retry_job, view_jobs
from pipeline.projects import find_project
from pipeline.removal import count_records, delete_job, find_removal, remove_batches
from pipeline.runner import publish_next
from pipeline.settings import get_settings
from schemas.bodies import (
    DeletionAnswer,
    IngestStatus,
    JobAnswer,
    JobBody,
    JobList,
    JobsQuery,
)
from schemas.enums import JobKind, UserRole
from tasks import publish, publish_removals

blueprint = Blueprint("jobs", __name__, url_prefix="/api/ingest")

# A deletion is done before it is answered if it takes no longer than this.
_REMOVAL_SECONDS = 2.0


@blueprint.get("/status")
def job_status() -> Response:
    """Answer with a job's counts and progress."""
    require_role(UserRole.MANAGER)
    job_id = request.args.get("jobId", "")
    if not job_id:
        raise InputError("jobId is missing: add ?jobId=...")
    with transaction() as session:
        view = _find_job(session, job_id)
    return answer(_status_body(view))


@blueprint.get("/jobs")
def jobs() -> Response:
    """Answer with jobs, newest first."""
    require_role(UserRole.MANAGER)
    query = JobsQuery.model_validate(request.args.to_dict())
    with transaction() as session:
        project_id = find_project(session, query.project_id).id if query.project_id else None
        views = view_jobs(session, JobKind.INGEST, project_id=project_id, limit=query.limit)
    return answer(JobList(jobs=[_status_body(view) for view in views]))


@blueprint.post("/cancel")
def cancel() -> Response:
    """Cancel an unfinished job."""
    bearer = require_role(UserRole.MANAGER)
    job_id = _read_job_id()
    with transaction() as session:
        require_writer(session, bearer, _find_job(session, job_id).project_id)
        cancel_job(session, job_id)
        status = _find_job(session, job_id).status
    return answer(JobAnswer(job_id=job_id, status=status))


@blueprint.post("/retry")
def retry() -> tuple[Response, int]:
    """Take up what is unfinished in a failed or cancelled job."""
    bearer = require_role(UserRole.MANAGER)
    job_id = _read_job_id()
    with transaction() as session:
        require_writer(session, bearer, _find_job(session, job_id).project_id)
        retry_job(session, job_id)
        status = _find_job(session, job_id).status
    publish(publish_next(job_id, get_settings().publish_window))
    return answer(JobAnswer(job_id=job_id, status=status)), 202


@blueprint.delete("/jobs/<job_id>")
def delete(job_id: str) -> tuple[Response, int]:
    """Delete a job and every record it loaded; 202 where the last of them are removed after the answer."""
    bearer = require_role(UserRole.MANAGER)
    with transaction() as session:
        project_id = find_removal(session, job_id) or _find_job(session, job_id).project_id
        require_writer(session, bearer, project_id)
        delete_job(session, job_id)
    progress = remove_batches(job_id, seconds=_REMOVAL_SECONDS)
    remaining = 0
    if not progress.is_over:
        publish_removals([job_id])
        with transaction() as session:
            remaining = count_records(session, job_id)
    body = DeletionAnswer(job_id=job_id, deleted_records=progress.deleted, remaining_records=remaining)
    return answer(body), 200 if progress.is_over else 202


@blueprint.get("/jobs/<job_id>/rejects.csv")
def rejects(job_id: str) -> Response:
    """Answer with the rows that became no record, to be corrected and submitted again."""
    require_role(UserRole.MANAGER)
    with transaction() as session:
        blocks = write_rejects(session, _find_job(session, job_id).id)
    headers = {"Content-Disposition": f'attachment; filename="rejects-{job_id}.csv"'}
    return Response(blocks, content_type="text/csv; charset=utf-8", headers=headers)


def _read_job_id() -> str:
    return JobBody.model_validate(request.get_json(force=True)).job_id


def _find_job(session: Session, job_id: str) -> JobView:
    # The beginning of an id will do for people, not for programs.
    views = view_jobs(session, JobKind.INGEST, ids=[job_id])
    if not views:
        raise NotFoundError(f"there is no ingest job {job_id!r}")
    return views[0]


def _status_body(view: JobView) -> IngestStatus:
    if view.type is None:
        raise NotFoundError(f"{view.id} is no ingest job")
    return IngestStatus(
        id=view.id,
        project_id=view.project_id,
        type=view.type,
        status=view.status,
        total_records=view.total_records,
        saved_count=view.saved_count,
        skipped_count=view.skipped_count,
        skipped_details=view.skipped_details,
        error=view.error,
        created_at=view.created_at,
        updated_at=view.updated_at,
        progress=progress_of(view),
        spent=spent_of(view),
    )
