"""`/api/admin/bulk-align` and `/api/analytics`: records held against the guidelines."""

from flask import Blueprint, Response, request
from sqlalchemy.orm import Session

from api.answers import answer, progress_of, spent_of
from api.auth import require_role, require_writer
from pipeline.analyze import (
    Estimate,
    align_record,
    analyze_trends,
    measure_analysis,
    price_analysis,
    start_analysis,
)
from pipeline.database import transaction
from pipeline.errors import NotFoundError
from pipeline.jobs import JobView, cancel_job, retry_job, view_jobs
from pipeline.projects import find_project
from pipeline.runner import publish_next
from pipeline.settings import get_settings
from schemas.bodies import (
    AnalysesQuery,
    AnalysisAnswer,
    AnalysisBody,
    AnalysisList,
    AnalysisStatus,
    CompareAnswer,
    CompareBody,
    EstimateAnswer,
    JobAnswer,
    JobBody,
    RetryBody,
    TrendsBody,
    TrendsBodyAnswer,
)
from schemas.enums import JobKind, UserRole
from tasks import publish

blueprint = Blueprint("analytics", __name__, url_prefix="/api")


@blueprint.post("/admin/bulk-align")
def bulk_align() -> tuple[Response, int]:
    """Start an analysis of a project, or say what it would cost."""
    bearer = require_role(UserRole.MANAGER)
    body = AnalysisBody.model_validate(request.get_json())
    options = body.to_options()
    with transaction() as session:
        project_id = find_project(session, body.project_id).id
        require_writer(session, bearer, project_id)
        measured = measure_analysis(session, project_id, options)
        start = None if body.dry_run else start_analysis(session, project_id, options)
    if start is None:
        return answer(_estimate_body(price_analysis(measured))), 200
    publish([start.plan])
    return answer(AnalysisAnswer(job_id=start.job_id, total_records=measured.extent.records)), 202


def _estimate_body(found: Estimate) -> EstimateAnswer:
    return EstimateAnswer(
        model=found.model,
        total_records=found.record_count,
        calls=found.call_count,
        input_tokens=found.input_tokens,
        output_tokens=found.output_tokens,
        cost_usd=found.cost_usd,
    )


@blueprint.get("/admin/bulk-align")
def analyses() -> Response:
    """Answer with analyses, newest first."""
    require_role(UserRole.MANAGER)
    query = AnalysesQuery.model_validate(request.args.to_dict())
    with transaction() as session:
        if query.job_id:
            views = [_find_job(session, query.job_id)]
        else:
            project_id = find_project(session, query.project_id).id if query.project_id else None
            views = view_jobs(session, JobKind.ANALYTICS, project_id=project_id, limit=query.limit)
    return answer(AnalysisList(jobs=[_status_body(view) for view in views]))


@blueprint.post("/admin/bulk-align/cancel")
def cancel() -> Response:
    """Cancel an unfinished analysis; what it found so far stays."""
    bearer = require_role(UserRole.MANAGER)
    job_id = JobBody.model_validate(request.get_json()).job_id
    with transaction() as session:
        require_writer(session, bearer, _find_job(session, job_id).project_id)
        cancel_job(session, job_id)
        status = _find_job(session, job_id).status
    return answer(JobAnswer(job_id=job_id, status=status))


@blueprint.post("/admin/bulk-align/retry")
def retry() -> tuple[Response, int]:
    """Take up what is unfinished in a failed or cancelled analysis, maybe with a larger budget."""
    bearer = require_role(UserRole.MANAGER)
    body = RetryBody.model_validate(request.get_json())
    with transaction() as session:
        require_writer(session, bearer, _find_job(session, body.job_id).project_id)
        retry_job(session, body.job_id, budget_usd=body.budget_usd)
        status = _find_job(session, body.job_id).status
    publish(publish_next(body.job_id, get_settings().publish_window))
    return answer(JobAnswer(job_id=body.job_id, status=status)), 202


@blueprint.post("/analytics/compare")
def compare() -> Response:
    """Answer with the alignment of one record, kept or made now."""
    require_role(UserRole.USER)
    body = CompareBody.model_validate(request.get_json())
    found = align_record(body.record_id, is_forced=body.force_regenerate)
    return answer(
        CompareAnswer(
            record_id=found.record_id,
            score=found.score,
            analysis=found.analysis,
            provider=found.provider,
            llm_model=found.llm_model,
            created_at=found.created_at,
            cached=found.is_cached,
        )
    )


@blueprint.post("/analytics/trends")
def trends() -> Response:
    """Answer with what distinguishes a project's best records from its worst."""
    bearer = require_role(UserRole.MANAGER)
    body = TrendsBody.model_validate(request.get_json())
    with transaction() as session:
        project_id = find_project(session, body.project_id).id
        require_writer(session, bearer, project_id)
    report = analyze_trends(project_id, body.type)
    return answer(TrendsBodyAnswer(analysis=report.to_markdown(), **report.model_dump()))


def _find_job(session: Session, job_id: str) -> JobView:
    # The beginning of an id will do for people, not for programs.
    views = view_jobs(session, JobKind.ANALYTICS, ids=[job_id])
    if not views:
        raise NotFoundError(f"there is no analysis {job_id!r}")
    return views[0]


def _status_body(view: JobView) -> AnalysisStatus:
    return AnalysisStatus(
        id=view.id,
        project_id=view.project_id,
        status=view.status,
        total_records=view.total_records,
        processed_count=view.processed_count,
        error=view.error,
        created_at=view.created_at,
        updated_at=view.updated_at,
        progress=progress_of(view),
        spent=spent_of(view),
        budget_usd=view.budget_usd,
    )
