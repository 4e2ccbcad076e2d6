"""`/api/admin/bulk-align` and `/api/analytics`: records held against the guidelines."""

from flask import Blueprint
from sqlalchemy.orm import Session

from api.access import require_writer
from api.answers import progress_of, spent_of
from api.keys import Answered, once
from api.openapi import answers
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
from pipeline.jobs import cancel_job, retry_job
from pipeline.jobviews import JobView, view_jobs
from pipeline.projects import find_project
from pipeline.runner import publish_next
from schemas.ai_bodies import (
    AnalysesQuery,
    AnalysisAnswer,
    AnalysisBody,
    AnalysisList,
    AnalysisStatus,
    CompareAnswer,
    CompareBody,
    EstimateAnswer,
    TrendsBody,
    TrendsBodyAnswer,
)
from schemas.bodies import JobAnswer, JobBody, RetryBody
from schemas.enums import JobKind
from tasks import publish

blueprint = Blueprint("analytics", __name__, url_prefix="/api")


def _started_before(job_id: str) -> Answered:
    with transaction() as session:
        return AnalysisAnswer(job_id=job_id, total_records=_find_job(session, job_id).total_records), 202


def _job_answer(job_id: str) -> Answered:
    with transaction() as session:
        return JobAnswer(job_id=job_id, status=_find_job(session, job_id).status), 202


@blueprint.post("/admin/bulk-align")
@answers(AnalysisAnswer, status=202, also={200: EstimateAnswer}, fails=[409, 502])
@once(_started_before)
def bulk_align(json: AnalysisBody) -> Answered:
    """Start an analysis of a project, or say what it would cost."""
    options = json.to_options()
    with transaction() as session:
        project_id = find_project(session, json.project_id).id
        require_writer(session, project_id)
        measured = measure_analysis(session, project_id, options)
        start = None if json.dry_run else start_analysis(session, project_id, options)
    if start is None:
        return _estimate_body(price_analysis(measured)), 200
    publish([start.plan])
    return AnalysisAnswer(job_id=start.job_id, total_records=measured.extent.records), 202


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
@answers(AnalysisList)
def analyses(query: AnalysesQuery) -> AnalysisList:
    """Answer with analyses, newest first."""
    with transaction() as session:
        if query.job_id:
            views = [_find_job(session, query.job_id)]
        else:
            project_id = find_project(session, query.project_id).id if query.project_id else None
            views = view_jobs(session, JobKind.ANALYTICS, project_id=project_id, limit=query.limit)
    return AnalysisList(jobs=[_status_body(view) for view in views])


@blueprint.post("/admin/bulk-align/cancel")
@answers(JobAnswer, fails=[409])
def cancel(json: JobBody) -> JobAnswer:
    """Cancel an unfinished analysis; what it found so far stays."""
    with transaction() as session:
        require_writer(session, _find_job(session, json.job_id).project_id)
        cancel_job(session, json.job_id)
        status = _find_job(session, json.job_id).status
    return JobAnswer(job_id=json.job_id, status=status)


@blueprint.post("/admin/bulk-align/retry")
@answers(JobAnswer, status=202, fails=[409])
@once(_job_answer)
def retry(json: RetryBody) -> Answered:
    """Take up what is unfinished in a failed or cancelled analysis, maybe with a larger budget."""
    with transaction() as session:
        require_writer(session, _find_job(session, json.job_id).project_id)
        retry_job(session, json.job_id, budget_usd=json.budget_usd)
    publish(publish_next(json.job_id))
    return _job_answer(json.job_id)


@blueprint.post("/analytics/compare")
@answers(CompareAnswer, fails=[409, 502])
def compare(json: CompareBody) -> CompareAnswer:
    """Answer with the alignment of one record, kept or made now."""
    found = align_record(json.record_id, is_forced=json.force_regenerate)
    return CompareAnswer(
        record_id=found.record_id,
        score=found.score,
        analysis=found.analysis,
        provider=found.provider,
        llm_model=found.llm_model,
        created_at=found.created_at,
        cached=found.is_cached,
    )


@blueprint.post("/analytics/trends")
@answers(TrendsBodyAnswer, fails=[409, 502])
def trends(json: TrendsBody) -> TrendsBodyAnswer:
    """Answer with what distinguishes a project's best records from its worst."""
    with transaction() as session:
        project_id = find_project(session, json.project_id).id
        require_writer(session, project_id)
    report = analyze_trends(project_id, json.type)
    return TrendsBodyAnswer(analysis=report.to_markdown(), **report.model_dump())


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
        failed_count=view.failed_count,
        waiting_for=view.waiting_for,
        spent=spent_of(view),
        budget_usd=view.budget_usd,
    )
