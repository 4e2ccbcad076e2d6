"""`/api/projects`: projects and their guidelines."""

from dataclasses import asdict

from flask import Blueprint, request
from werkzeug.exceptions import RequestEntityTooLarge

from api.access import bearer, require_writer
from api.openapi import answers
from pipeline.database import transaction
from pipeline.errors import InputError
from pipeline.guidelines import decode_guidelines
from pipeline.project_removal import clear_project, delete_project, remove_files
from pipeline.projects import create_project, find_project, list_projects, set_guidelines
from schemas.project_bodies import (
    ClearBody,
    GuidelinesAnswer,
    GuidelinesQuery,
    NewProject,
    NewProjectAnswer,
    ProjectAnswer,
    ProjectDeletion,
    ProjectList,
)

blueprint = Blueprint("projects", __name__, url_prefix="/api")

# Read whole, by a process of its own that is bounded in memory.
_MOST_PDF_BYTES = 50 * 1024 * 1024


@blueprint.get("/projects")
@answers(ProjectList)
def projects() -> ProjectList:
    """Answer with all projects."""
    with transaction() as session:
        found = list_projects(session)
    return ProjectList(projects=[ProjectAnswer.model_validate(asdict(project)) for project in found])


@blueprint.post("/projects")
@answers(NewProjectAnswer, status=201, fails=[409])
def create(json: NewProject) -> tuple[NewProjectAnswer, int]:
    """Make a project, which belongs to who asks, maybe with guidelines."""
    with transaction() as session:
        made = create_project(session, json.name, owner_id=bearer().profile_id)
        if json.guidelines is not None:
            pdf = decode_guidelines(json.guidelines)
            set_guidelines(session, made.id, pdf, file_name=json.guidelines_file_name)
    return NewProjectAnswer(id=made.id, name=made.name), 201


@blueprint.put("/projects/<project_id>/guidelines")
@answers(GuidelinesAnswer)
def guidelines(project_id: str, query: GuidelinesQuery) -> GuidelinesAnswer:
    """Take a PDF as the project's guidelines."""
    with transaction() as session:
        project_id = find_project(session, project_id).id
        require_writer(session, project_id)
    pdf = _read_pdf()
    with transaction() as session:
        found = set_guidelines(session, project_id, pdf, file_name=query.file_name)
    return GuidelinesAnswer(sha256=found.sha256, rules=len(found.rules))


@blueprint.delete("/projects/<project_id>")
@answers(ProjectDeletion)
def delete(project_id: str) -> ProjectDeletion:
    """Delete a project with its records, jobs and results."""
    with transaction() as session:
        project_id = find_project(session, project_id).id
        require_writer(session, project_id)
        cleared = delete_project(session, project_id)
    remove_files(cleared)
    return ProjectDeletion(deleted_records=cleared.records, deleted_jobs=cleared.jobs)


@blueprint.post("/admin/clear")
@answers(ProjectDeletion)
def clear(json: ClearBody) -> ProjectDeletion:
    """Remove all records and jobs of a project; it and its guidelines stay."""
    with transaction() as session:
        project = find_project(session, json.project_id)
        if json.confirm != project.name:
            raise InputError(f"confirm must be the project's name, {project.name!r}: nothing was removed")
        cleared = clear_project(session, project.id)
    remove_files(cleared)
    return ProjectDeletion(deleted_records=cleared.records, deleted_jobs=cleared.jobs)


def _read_pdf() -> bytes:
    if (request.content_length or 0) > _MOST_PDF_BYTES:
        raise RequestEntityTooLarge(f"guidelines have {_MOST_PDF_BYTES:,} bytes at most")
    request.max_content_length = _MOST_PDF_BYTES
    return request.get_data()
