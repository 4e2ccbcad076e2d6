"""Request and response bodies of `/api/projects`."""

from uuid import UUID

from pydantic import Field

from schemas.bodies import Asked, Body
from schemas.instants import Instant
from schemas.names import FileName

# What a PDF is called whose name nobody gives.
GUIDELINES = "guidelines.pdf"


class NewProject(Asked):
    """A project to be made; its guidelines are a PDF as a data URI, or as base64."""

    name: str = Field(min_length=1, max_length=200)
    guidelines: str | None = Field(default=None, min_length=1)
    guidelines_file_name: FileName = GUIDELINES


class ProjectAnswer(Body):
    """A project; `ownerId` is null where its owner was deleted, or the command line made it."""

    id: str
    name: str
    owner_id: UUID | None
    has_guidelines: bool
    guidelines_file_name: str | None
    created_at: Instant
    updated_at: Instant


class ProjectList(Body):
    """Projects by name."""

    projects: list[ProjectAnswer]


class NewProjectAnswer(Body):
    """201: the project that was made."""

    id: str
    name: str


class GuidelinesQuery(Asked):
    """What the PDF is called."""

    file_name: FileName = GUIDELINES


class GuidelinesAnswer(Body):
    """What was found in a guidelines PDF."""

    sha256: str
    rules: int


class ProjectDeletion(Body):
    """What a project's deletion took along."""

    deleted_records: int
    deleted_jobs: int


class ClearBody(Asked):
    """The project whose records and jobs are to go; `confirm` is its name, so that nobody clears another."""

    project_id: str = Field(min_length=1)
    confirm: str
