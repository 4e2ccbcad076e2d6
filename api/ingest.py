"""`/api/ingest`: batches on their way in."""

import io
from typing import BinaryIO, cast

from flask import Blueprint, Response, request

from api.answers import answer
from api.auth import require_role, require_writer
from pipeline.analyze import require_guidelines
from pipeline.database import transaction
from pipeline.errors import InputError
from pipeline.ingest.fetched import submit_url
from pipeline.ingest.submit import Submission, submit_csv
from pipeline.jobs import view_jobs
from pipeline.projects import find_project
from pipeline.tokens import Bearer
from pipeline.vectorize import start_vectorization
from schemas.bodies import (
    CsvForm,
    JobAnswer,
    SubmissionAnswer,
    SubmissionForm,
    UrlForm,
    VectorizationBody,
)
from schemas.enums import JobKind, UserRole
from tasks import publish

blueprint = Blueprint("ingest", __name__, url_prefix="/api/ingest")


@blueprint.post("/csv")
def submit() -> tuple[Response, int]:
    """Take a CSV file (multipart, or JSON with `csvData`) and answer with the job that loads it."""
    bearer = require_role(UserRole.MANAGER)
    form, source, file_name = _read_form()
    options = form.to_options(encoding=form.encoding, delimiter=form.delimiter)
    submission = submit_csv(
        _find_project(form, bearer), source, file_name=file_name, options=options, force=form.force
    )
    return _accept(submission, f"{file_name} is stored and will be loaded")


@blueprint.post("/api")
def submit_by_url() -> tuple[Response, int]:
    """Take the URL of a batch in JSON and answer with the job whose worker fetches and loads it."""
    bearer = require_role(UserRole.MANAGER)
    form = UrlForm.model_validate(request.get_json())
    submission = submit_url(
        _find_project(form, bearer), form.url, options=form.to_options(), force=form.force
    )
    return _accept(submission, "the batch will be fetched and loaded")


@blueprint.post("/retroactive-vectorization")
def vectorize() -> tuple[Response, int]:
    """Embed a project's records whose embedding is pending or does not count, and answer with the job."""
    bearer = require_role(UserRole.MANAGER)
    body = VectorizationBody.model_validate(request.get_json())
    with transaction() as session:
        project_id = find_project(session, body.project_id).id
        require_writer(session, bearer, project_id)
        start = start_vectorization(session, project_id, is_all=body.all)
        status = view_jobs(session, JobKind.INGEST, ids=[start.job_id])[0].status
    publish([start.plan])
    return answer(JobAnswer(job_id=start.job_id, status=status)), 202


def _find_project(form: SubmissionForm, bearer: Bearer) -> str:
    with transaction() as session:
        project_id = find_project(session, form.project_id).id
        require_writer(session, bearer, project_id)
        if form.analyze:
            require_guidelines(session, project_id)
    return project_id


def _accept(submission: Submission, message: str) -> tuple[Response, int]:
    publish([submission.plan])
    body = SubmissionAnswer(
        job_id=submission.job_id, message=message, estimated_records=submission.estimated_records
    )
    return answer(body), 202


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
