"""`/api/ingest`: batches on their way in."""

import io
from typing import BinaryIO, cast

from flask import Blueprint, Response, jsonify, request

from api.auth import require_role, require_writer
from pipeline.analyze import require_guidelines
from pipeline.database import transaction
from pipeline.errors import InputError
from pipeline.ingest.submit import submit_csv
from pipeline.projects import find_project
from schemas.bodies import IngestForm, SubmissionAnswer
from schemas.enums import UserRole
from tasks import publish

blueprint = Blueprint("ingest", __name__, url_prefix="/api/ingest")


@blueprint.post("/csv")
def submit() -> tuple[Response, int]:
    """Take a CSV file (multipart, or JSON with `csvData`) and answer with the job that loads it."""
    bearer = require_role(UserRole.MANAGER)
    form, source, file_name = _read_form()
    with transaction() as session:
        project_id = find_project(session, form.project_id).id
        require_writer(session, bearer, project_id)
        if form.analyze:
            require_guidelines(session, project_id)
    submission = submit_csv(
        project_id, source, file_name=file_name, options=form.to_options(), force=form.force
    )
    publish([submission.plan])
    answer = SubmissionAnswer(
        job_id=submission.job_id,
        message=f"{file_name} is stored and will be loaded",
        estimated_records=submission.estimated_records,
    )
    return jsonify(answer.model_dump(by_alias=True)), 202


def _read_form() -> tuple[IngestForm, BinaryIO, str]:
    if request.is_json:
        form = IngestForm.model_validate(request.get_json())
        if form.csv_data is None:
            raise InputError("csvData is missing: it holds the CSV text")
        return form, io.BytesIO(form.csv_data.encode()), form.file_name or "data.csv"
    form = IngestForm.model_validate(request.form.to_dict())
    file = request.files.get("file")
    if file is None:
        raise InputError("file is missing: send the CSV as the multipart field `file`")
    return form, cast("BinaryIO", file.stream), file.filename or "data.csv"
