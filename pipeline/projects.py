"""Projects: finding, making, and giving them guidelines."""

import hashlib
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pipeline.errors import InputError, NotFoundError
from pipeline.guidelines import Guidelines, decode_guidelines, encode_guidelines, read_guidelines
from pipeline.ids import new_cuid
from schemas.own import GuidelinesText
from schemas.reference import Project


@dataclass(frozen=True)
class ProjectRef:
    """A project's id and name."""

    id: str
    name: str


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
    name = name.strip()
    if not name:
        raise InputError("a project needs a name")
    try:
        return find_project(session, name)
    except NotFoundError:
        session.execute(
            upsert(Project).values(id=new_cuid(), name=name).on_conflict_do_nothing(index_elements=["name"])
        )
        return find_project(session, name)


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
