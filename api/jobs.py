"""`/api/ingest`: jobs that are there. Programs name them by their whole id."""

from collections.abc import Mapping, Sequence

from flask import Blueprint, Response
from sqlalchemy.orm import Session

from api.access import require_writer
from api.answers import progress_of, spent_of
from api.keys import Answered, once
from api.openapi import answers
from pipeline.database import read, transaction
from pipeline.errors import NotFoundError
from pipeline.ingest.rejects import write_rejects
from pipeline.jobs import cancel_job, retry_job
from pipeline.jobviews import JobView, view_jobs
from pipeline.projects import find_project
from pipeline.removal import count_records, delete_job, find_removal, remove_batches
from pipeline.runner import publish_next
from pipeline.together import Together
from schemas.bodies import (
    DeletionAnswer,
    IngestStatus,
    JobAnswer,
    JobBody,
    JobList,
    JobsQuery,
    StatusQuery,
)
from schemas.enums import JobKind
from tasks import publish, publish_removals

blueprint = Blueprint("jobs", __name__, url_prefix="/api/ingest")

# A deletion is done before it is answered if it takes no longer than this.
_REMOVAL_SECONDS = 2.0
_NO_JOB = "there is no ingest job {!r}"


def find_job(session: Session, job_id: str) -> JobView:
    """Find an ingest job by its whole id.

    Raises:
        NotFoundError: there is none.
    """
    # The beginning of an id will do for people, not for programs.
    views = view_jobs(session, JobKind.INGEST, ids=[job_id])
    if not views:
        raise NotFoundError(_NO_JOB.format(job_id))
    return views[0]


def job_answer(job_id: str) -> Answered:
    """Answer with a job that was started or taken up again."""
    with transaction() as session:
        return JobAnswer(job_id=job_id, status=find_job(session, job_id).status), 202


@blueprint.get("/status")
@answers(IngestStatus)
def job_status(query: StatusQuery) -> IngestStatus:
    """Answer with a job's counts and progress."""
    view = _views.find(query.job_id)
    if view is None:
        raise NotFoundError(_NO_JOB.format(query.job_id))
    return status_body(view)


def _find_views(job_ids: Sequence[str]) -> Mapping[str, JobView]:
    views = read(lambda asked: view_jobs(asked, JobKind.INGEST, ids=job_ids, limit=len(job_ids)))
    return {view.id: view for view in views}


# Asked for by everybody who waits for a job.
_views = Together(_find_views)


@blueprint.get("/jobs")
@answers(JobList)
def jobs(query: JobsQuery) -> JobList:
    """Answer with jobs, newest first."""
    with transaction() as session:
        project_id = find_project(session, query.project_id).id if query.project_id else None
        views = view_jobs(session, JobKind.INGEST, project_id=project_id, limit=query.limit)
    return JobList(jobs=[status_body(view) for view in views])


@blueprint.post("/cancel")
@answers(JobAnswer, fails=[409])
def cancel(json: JobBody) -> JobAnswer:
    """Cancel an unfinished job."""
    with transaction() as session:
        require_writer(session, find_job(session, json.job_id).project_id)
        cancel_job(session, json.job_id)
        status = find_job(session, json.job_id).status
    return JobAnswer(job_id=json.job_id, status=status)


@blueprint.post("/retry")
@answers(JobAnswer, status=202, fails=[409])
@once(job_answer)
def retry(json: JobBody) -> Answered:
    """Take up what is unfinished in a failed or cancelled job."""
    with transaction() as session:
        require_writer(session, find_job(session, json.job_id).project_id)
        retry_job(session, json.job_id)
    publish(publish_next(json.job_id))
    return job_answer(json.job_id)


@blueprint.delete("/jobs/<job_id>")
@answers(DeletionAnswer, also={202: DeletionAnswer})
def delete(job_id: str) -> tuple[DeletionAnswer, int]:
    """Delete a job and every record it loaded; 202 where the last of them are removed after the answer."""
    with transaction() as session:
        project_id = find_removal(session, job_id) or find_job(session, job_id).project_id
        require_writer(session, project_id)
        delete_job(session, job_id)
    progress = remove_batches(job_id, seconds=_REMOVAL_SECONDS)
    remaining = 0
    if not progress.is_over:
        publish_removals([job_id])
        with transaction() as session:
            remaining = count_records(session, job_id)
    body = DeletionAnswer(job_id=job_id, deleted_records=progress.deleted, remaining_records=remaining)
    return body, 200 if progress.is_over else 202


@blueprint.get("/jobs/<job_id>/rejects.csv")
def rejects(job_id: str) -> Response:
    """Answer with the rows that became no record, to be corrected and submitted again."""
    with transaction() as session:
        blocks = write_rejects(session, find_job(session, job_id).id)
    headers = {"Content-Disposition": f'attachment; filename="rejects-{job_id}.csv"'}
    return Response(blocks, content_type="text/csv; charset=utf-8", headers=headers)


def status_body(view: JobView) -> IngestStatus:
    """Give what is told of a job."""
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
        failed_count=view.failed_count,
        waiting_for=view.waiting_for,
        spent=spent_of(view),
    )
