"""Which records a vectorize stage is about: those that its job loaded, or all of a project."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipeline.errors import FatalError
from pipeline.ledger import Claim
from schemas.reference import IngestJob


@dataclass(frozen=True)
class Scope:
    """The project, and the condition on rows of data_records (named `record`) with its parameters."""

    project_id: str
    condition: str
    parameters: Mapping[str, Any]


def read_scope(session: Session, held: Claim) -> Scope:
    """Say which records the stage of a claim is about.

    Raises:
        FatalError: the job is gone.
    """
    project_id = session.scalar(select(IngestJob.project_id).where(IngestJob.id == held.ref.job_id))
    if project_id is None:
        raise FatalError(f"job {held.ref.job_id} is gone")
    if is_of_project(held):
        return Scope(project_id, 'record."projectId" = :project_id', {"project_id": project_id})
    return Scope(project_id, 'record."ingestJobId" = :job_id', {"job_id": held.ref.job_id})


def is_of_project(held: Claim) -> bool:
    """Tell whether the job loaded nothing itself and embeds a project's records instead."""
    return "reembed" in held.options
