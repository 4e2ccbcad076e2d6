"""Removing a project with all that belongs to it, or only its records and jobs."""

from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from pipeline.audit import note
from pipeline.errors import NotFoundError
from pipeline.storage import get_storage
from schemas.own import Removal, Upload
from schemas.reference import AnalyticsJob, DataRecord, IngestJob, Project


@dataclass(frozen=True)
class Cleared:
    """What was removed, and the uploads whose files are nobody's once the transaction is committed."""

    records: int
    jobs: int
    upload_ids: tuple[str, ...]


def delete_project(session: Session, project_id: str) -> Cleared:
    """Delete a project, by its whole id, with its records, jobs, uploads and results.

    Whoever works on one of its jobs is refused at the next chunk's end, and stops.

    Raises:
        NotFoundError: there is no such project.
    """
    name = _lock(session, project_id)
    cleared = _clear(session, project_id)
    session.execute(delete(Project).where(Project.id == project_id))
    note(session, "project.delete", "project", project_id, project_id, name=name, records=cleared.records)
    return cleared


def clear_project(session: Session, project_id: str) -> Cleared:
    """Remove all records and jobs of a project; the project and its guidelines stay.

    Raises:
        NotFoundError: there is no such project.
    """
    name = _lock(session, project_id)
    cleared = _clear(session, project_id)
    session.execute(
        update(Project)
        .where(Project.id == project_id)
        .values(
            last_task_analysis=None,
            last_feedback_analysis=None,
            updated_at=func.timezone("utc", func.now()),
        )
    )
    note(session, "project.clear", "project", project_id, project_id, name=name, records=cleared.records)
    return cleared


def remove_files(cleared: Cleared) -> None:
    """Remove the files of what was cleared, after the commit: a file without a row is found by upkeep."""
    for upload_id in cleared.upload_ids:
        get_storage().delete_all(upload_id)


def _lock(session: Session, project_id: str) -> str:
    # The project first: all work on it locks it first, too (`pipeline.flow.hold_project`).
    name = session.scalar(select(Project.name).where(Project.id == project_id).with_for_update())
    if name is None:
        raise NotFoundError(f"there is no project {project_id!r}")
    return name


def _clear(session: Session, project_id: str) -> Cleared:
    # Records first: a job that goes before them would be taken out of each.
    gone = delete(DataRecord).where(DataRecord.project_id == project_id).returning(DataRecord.id).cte("gone")
    records = session.scalar(select(func.count()).select_from(gone)) or 0
    jobs = [
        job_id
        for table in (IngestJob, AnalyticsJob)
        for job_id in session.scalars(delete(table).where(table.project_id == project_id).returning(table.id))
    ]
    session.execute(delete(Removal).where(Removal.project_id == project_id))
    uploads = session.scalars(
        delete(Upload).where(Upload.project_id == project_id).returning(Upload.id)
    ).all()
    return Cleared(records, len(jobs), tuple(uploads))
