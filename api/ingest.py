"""`/api/ingest`: batches on their way in."""

import hashlib
import io
from typing import BinaryIO

from flask import Blueprint

from api.access import bearer, require_writer
from api.jobs import job_answer
from api.keys import Answered, answer_once, once
from api.multipart import read_form
from api.openapi import answers
from pipeline.analyze import require_guidelines
from pipeline.database import transaction
from pipeline.errors import InputError
from pipeline.ingest.fetched import submit_url
from pipeline.ingest.submit import Submission, submit_csv
from pipeline.projects import find_project
from pipeline.resumable import finished_upload
from pipeline.storage import ArrivedFile, IncomingFile
from pipeline.vectorize import start_vectorization
from schemas.bodies import (
    CsvForm,
    CsvUpload,
    JobAnswer,
    SubmissionAnswer,
    SubmissionForm,
    UrlForm,
    VectorizationBody,
)
from tasks import publish

blueprint = Blueprint("ingest", __name__, url_prefix="/api/ingest")


_NO_NAME = "data.csv"


def _made_before(job_id: str) -> Answered:
    message = "an earlier request with this key has made the job"
    return SubmissionAnswer(job_id=job_id, message=message, estimated_records=None), 202


@blueprint.post("/csv")
@answers(SubmissionAnswer, status=202, fails=[409], form=CsvUpload)
def submit(json: CsvForm) -> Answered:
    """Take a CSV (multipart, or JSON with `csvData` or `uploadId`) and answer with the job that loads it."""
    # No JSON was sent where this is None, whatever the signature says.
    if json is not None:
        return answer_once(_sha256(json), lambda: _submit_json(json), _made_before)
    with read_form() as sent:
        form = CsvForm.model_validate(sent.fields)
        if form.csv_data is not None or form.upload_id is not None:
            raise InputError("a file was sent beside csvData or uploadId: send one of them")
        name = form.file_name or sent.file_name
        # The boundary of a form is another one each time.
        sha256 = _sha256(form, file=sent.file)
        return answer_once(sha256, lambda: _submit(form, sent.file, name), _made_before)


@blueprint.post("/api")
@answers(SubmissionAnswer, status=202, fails=[409])
@once(_made_before)
def submit_by_url(json: UrlForm) -> Answered:
    """Take the URL of a batch in JSON and answer with the job whose worker fetches and loads it."""
    submission = submit_url(_find_project(json), json.url, options=json.to_options(), force=json.force)
    return _accept(submission, "the batch will be fetched and loaded")


@blueprint.post("/retroactive-vectorization")
@answers(JobAnswer, status=202, fails=[409])
@once(job_answer)
def vectorize(json: VectorizationBody) -> Answered:
    """Embed a project's records whose embedding is pending or does not count, and answer with the job."""
    with transaction() as session:
        project_id = find_project(session, json.project_id).id
        require_writer(session, project_id)
        start = start_vectorization(session, project_id, is_all=json.all)
    publish([start.plan])
    return job_answer(start.job_id)


def _find_project(form: SubmissionForm) -> str:
    with transaction() as session:
        project_id = find_project(session, form.project_id).id
        require_writer(session, project_id)
        if form.analyze:
            require_guidelines(session, project_id)
    return project_id


def _accept(submission: Submission, message: str) -> Answered:
    publish([submission.plan])
    body = SubmissionAnswer(
        job_id=submission.job_id, message=message, estimated_records=submission.estimated_records
    )
    return body, 202


def _sha256(asked: CsvForm, *, file: IncomingFile | None = None) -> str:
    """Tell what is asked from anything else."""
    of_file = file.sha256 if file else ""
    return hashlib.sha256(f"{of_file} {asked.model_dump_json()}".encode()).hexdigest()


def _submit_json(asked: CsvForm) -> Answered:
    if (asked.csv_data is None) == (asked.upload_id is None):
        raise InputError("send either csvData, the CSV text, or uploadId, of a finished upload")
    if asked.upload_id is None:
        text = io.BytesIO(str(asked.csv_data).encode())
        return _submit(asked, text, asked.file_name or _NO_NAME)
    with finished_upload(asked.upload_id, bearer().profile_id) as upload:
        return _submit(asked, upload, asked.file_name or upload.file_name or _NO_NAME)


def _submit(asked: CsvForm, source: BinaryIO | ArrivedFile, file_name: str) -> Answered:
    submission = submit_csv(
        _find_project(asked),
        source,
        file_name=file_name,
        options=asked.to_options(encoding=asked.encoding, delimiter=asked.delimiter),
        force=asked.force,
    )
    return _accept(submission, f"{file_name} is stored and will be loaded")
