"""`/api/ingest`: batches on their way in."""

import io
from typing import BinaryIO, cast

from flask import Blueprint, Response, jsonify, request

from api.auth import require_role
from pipeline.analyze import require_guidelines
from pipeline.database import transaction
from pipeline.errors import InputError, NotFoundError
from pipeline.ingest.fetched import submit_url
from pipeline.ingest.submit import Submission, submit_csv
from pipeline.jobs import JobView, view_job
from pipeline.projects import find_project
from schemas.bodies import CsvForm, IngestStatus, Progress, SubmissionAnswer, SubmissionForm, UrlForm
from schemas.enums import UserRole
from tasks import publish

blueprint = Blueprint("ingest", __name__, url_prefix="/api/ingest")


@blueprint.post("/csv")
def submit() -> tuple[Response, int]:
    """Take a CSV file (multipart, or JSON with `csvData`) and answer with the job that loads it."""
    require_role(UserRole.MANAGER)
    form, source, file_name = _read_form()
    options = form.to_options(encoding=form.encoding, delimiter=form.delimiter)
    submission = submit_csv(
        _find_project(form), source, file_name=file_name, options=options, force=form.force
    )
    return _accept(submission, f"{file_name} is stored and will be loaded")


@blueprint.post("/api")
def submit_by_url() -> tuple[Response, int]:
    """Take the URL of a batch in JSON and answer with the job whose worker fetches and loads it."""
    require_role(UserRole.MANAGER)
    form = UrlForm.model_validate(request.get_json())
    submission = submit_url(_find_project(form), form.url, options=form.to_options(), force=form.force)
    return _accept(submission, "the batch will be fetched and loaded")


def _find_project(form: SubmissionForm) -> str:
    with transaction() as session:
        project_id = find_project(session, form.project_id).id
        if form.analyze:
            require_guidelines(session, project_id)
    return project_id


def _accept(submission: Submission, message: str) -> tuple[Response, int]:
    publish([submission.plan])
    answer = SubmissionAnswer(
        job_id=submission.job_id, message=message, estimated_records=submission.estimated_records
    )
    return jsonify(answer.model_dump(by_alias=True)), 202


def _read_form() -> tuple[CsvForm, BinaryIO, str]:
    if request.is_json:
        form = CsvForm.model_validate(request.get_json())
        if form.csv_data is None:
            raise InputError("csvData is missing: it holds the CSV text")
        return form, io.BytesIO(form.csv_data.encode()), form.file_name or "data.csv"
    form = CsvForm.model_validate(request.form.to_dict())
    file = request.files.get("file")
    if file is None:
        raise InputError("file is missing: send the CSV as the multipart field `file`")
    return form, cast("BinaryIO", file.stream), file.filename or "data.csv"


@blueprint.get("/status")
def job_status() -> Response:
    """Answer with a job's counts and progress."""
    require_role(UserRole.MANAGER)
    job_id = request.args.get("jobId", "")
    if not job_id:
        raise InputError("jobId is missing: add ?jobId=...")
    with transaction() as session:
        view = view_job(session, job_id)
    if view.id != job_id:  # the beginning of an id will do for people, not for programs
        raise NotFoundError(f"there is no job {job_id!r}")
    return jsonify(_status_body(view).model_dump(by_alias=True, mode="json"))


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
        progress=_progress(view),
    )


def _progress(view: JobView) -> Progress | None:
    if not view.stages:
        return None
    stage = view.stages[-1]
    return Progress(
        stage=stage.stage,
        done=stage.settled,
        total=stage.total,
        failed=stage.failed,
        rate_per_second=stage.rate,
        eta_seconds=stage.eta_seconds,
    )
