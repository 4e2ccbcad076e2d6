"""`/api/jobs/<id>/failures`: which records a job of either kind could not work on, and why."""

from dataclasses import asdict

from flask import Blueprint

from api.openapi import answers
from pipeline.database import transaction
from pipeline.errors import NotFoundError
from pipeline.failures import read_failures
from pipeline.jobviews import resolve_job
from schemas.bodies import FailureAnswer, FailureList, FailuresQuery

blueprint = Blueprint("failures", __name__, url_prefix="/api/jobs")


@blueprint.get("/<job_id>/failures")
@answers(FailureList)
def failures(job_id: str, query: FailuresQuery) -> FailureList:
    """Answer with a page of a job's failed records."""
    with transaction() as session:
        # The beginning of an id will do for people, not for programs.
        if resolve_job(session, job_id)[1] != job_id:
            raise NotFoundError(f"there is no job {job_id!r}")
        page = read_failures(session, job_id, limit=query.limit, cursor=query.cursor)
    found = [FailureAnswer.model_validate(asdict(failure)) for failure in page.failures]
    return FailureList(failures=found, next_cursor=page.next_cursor)
