"""Projects: finding, making, and giving them guidelines."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pipeline.audit import note
from pipeline.errors import DuplicateError, InputError, NotFoundError
from pipeline.guidelines import Guidelines, decode_guidelines, encode_guidelines, read_guidelines
from pipeline.ids import is_cuid, new_cuid
from schemas.own import GuidelinesText
from schemas.reference import Project


@dataclass(frozen=True)
class ProjectRef:
    """A project's id and name."""

    id: str
    name: str


@dataclass(frozen=True)
class ProjectView:
    """A project as it is listed; without an owner where that was deleted, or the command line made it."""

    id: str
    name: str
    owner_id: UUID | None
    has_guidelines: bool
    guidelines_file_name: str | None
    created_at: datetime
    updated_at: datetime


def find_project(session: Session, name_or_id: str) -> ProjectRef:
    """Find a project by its name or its id; a name wins over an id.

    Raises:
        NotFoundError: there is none.
    """
    row = session.execute(
        select(Project.id, Project.name)
        .where(or_(Project.name == name_or_id, Project.id == name_or_id))
        .order_by((Project.name == name_or_id).desc())
        .limit(1)
    ).first()
    if row is None:
        raise NotFoundError(f"there is no project {name_or_id!r}")
    return ProjectRef(row.id, row.name)


def is_owner(session: Session, project_id: str, profile_id: UUID) -> bool:
    """Tell whether the project, by its whole id, belongs to this profile."""
    found = session.scalar(select(Project.id).where(Project.id == project_id, Project.owner_id == profile_id))
    return found is not None


def ensure_project(session: Session, name: str) -> ProjectRef:
    """Find a project by name or id, or make one of that name.

    Raises:
        InputError: the name is blank.
    """
    try:
        return find_project(session, name.strip())
    except NotFoundError:
        _insert_project(session, name, None)
        return find_project(session, name.strip())


def create_project(session: Session, name: str, *, owner_id: UUID) -> ProjectRef:
    """Make a project that belongs to somebody.

    Raises:
        InputError: the name is none that a project can have.
        DuplicateError: there is a project of this name.
    """
    project_id = _insert_project(session, name, owner_id)
    if project_id is None:
        raise DuplicateError(f"there is a project {name.strip()!r} already: choose another name")
    return ProjectRef(project_id, name.strip())


def _insert_project(session: Session, name: str, owner_id: UUID | None) -> str | None:
    """Make a project and give its id; None where there is one of the name."""
    name = name.strip()
    if not name:
        raise InputError("a project needs a name")
    if is_cuid(name):
        # Else it would be found where the project with this id is meant.
        raise InputError("a project's name must not look like an id: choose another name")
    made = session.scalar(
        upsert(Project)
        .values(id=new_cuid(), name=name, owner_id=owner_id)
        .on_conflict_do_nothing(index_elements=["name"])
        .returning(Project.id)
    )
    if made is not None:
        note(session, "project.create", "project", made, made, name=name)
    return made


def list_projects(session: Session) -> list[ProjectView]:
    """List the projects by name."""
    has_guidelines = func.coalesce(Project.guidelines, "") != ""
    rows = session.execute(
        select(
            Project.id,
            Project.name,
            Project.owner_id,
            has_guidelines,
            Project.guidelines_file_name,
            Project.created_at,
            Project.updated_at,
        ).order_by(Project.name)
    )
    return [ProjectView(*row) for row in rows]


def set_guidelines(session: Session, project_id: str, pdf: bytes, *, file_name: str) -> Guidelines:
    """Read a guidelines PDF and, if it has text and rules, store it with the project.

    Raises:
        InputError: the PDF cannot be used; says why (see `pipeline.guidelines`).
    """
    guidelines = read_guidelines(pdf)
    session.execute(
        update(Project)
        .where(Project.id == project_id)
        .values(
            guidelines=encode_guidelines(pdf),
            guidelines_file_name=file_name,
            updated_at=func.timezone("utc", func.now()),
        )
    )
    _keep_text(session, guidelines)
    note(
        session,
        "guidelines.set",
        "project",
        project_id,
        project_id,
        file_name=file_name,
        sha256=guidelines.sha256,
        rules=len(guidelines.rules),
    )
    return guidelines


def load_guidelines(session: Session, project_id: str) -> Guidelines | None:
    """Give the rules of a project's guidelines; a PDF that another client stored is read now.

    Raises:
        InputError: the stored PDF cannot be used.
    """
    stored = session.scalar(select(Project.guidelines).where(Project.id == project_id))
    if not stored:
        return None
    guidelines = read_guidelines(decode_guidelines(stored))
    _keep_text(session, guidelines)
    return guidelines


def current_guidelines(session: Session, project_id: str) -> Guidelines | None:
    """Give the same as `load_guidelines`, without reading a PDF that was read before.

    Raises:
        InputError: as `load_guidelines`.
    """
    stored = session.scalar(select(Project.guidelines).where(Project.id == project_id))
    if not stored:
        return None
    try:
        return kept_guidelines(session, hashlib.sha256(decode_guidelines(stored)).hexdigest())
    except NotFoundError:
        return load_guidelines(session, project_id)


def kept_guidelines(session: Session, sha256: str) -> Guidelines:
    """Give guidelines that were read before, by the PDF's SHA-256.

    Raises:
        NotFoundError: none were.
    """
    row = session.execute(
        select(GuidelinesText.text, GuidelinesText.rules).where(GuidelinesText.sha256 == sha256)
    ).first()
    if row is None:
        raise NotFoundError(f"no guidelines with SHA-256 {sha256} were read")
    return Guidelines(sha256, row.text, tuple(row.rules))


def has_guidelines(session: Session, project_id: str) -> bool:
    """Tell whether the project has a guidelines PDF."""
    found = session.scalar(
        select(Project.id).where(Project.id == project_id, func.coalesce(Project.guidelines, "") != "")
    )
    return found is not None


def _keep_text(session: Session, guidelines: Guidelines) -> None:
    session.execute(
        upsert(GuidelinesText)
        .values(sha256=guidelines.sha256, text=guidelines.text, rules=list(guidelines.rules))
        .on_conflict_do_update(
            index_elements=["sha256"], set_={"text": guidelines.text, "rules": list(guidelines.rules)}
        )
    )
