"""Making a job that embeds a project's records: those that have no embedding, or one that does not count."""

from dataclasses import dataclass

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from pipeline import ledger
from pipeline.audit import note
from pipeline.errors import ConflictError, InputError
from pipeline.idempotency import claim_key
from pipeline.ids import new_cuid
from pipeline.ledger import ChunkRef
from pipeline.states import UNFINISHED
from schemas.enums import JobStatus, Stage
from schemas.own import WorkJob
from schemas.reference import DataRecord, IngestJob, Project


@dataclass(frozen=True)
class VectorizationStart:
    """A new job and the chunk to publish for it."""

    job_id: str
    plan: ChunkRef


def start_vectorization(session: Session, project_id: str, *, is_all: bool = False) -> VectorizationStart:
    """Put a job on the ledger that embeds what is not embedded by the present model.

    Args:
        session: the transaction to do it in.
        project_id: the project.
        is_all: embed every record anew, whatever is known of its embedding.

    Raises:
        InputError: the project has no records.
        ConflictError: a job is embedding records of the project; names it.
        KeyTakenError: the same request made its job already (see `pipeline.idempotency`).
    """
    job_id = new_cuid()
    claim_key(session, job_id)
    # One at a time: two would embed, and pay for, the same records.
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update())
    running = session.scalar(
        select(IngestJob.id)
        .join(WorkJob, WorkJob.ingest_job_id == IngestJob.id)
        .where(
            IngestJob.project_id == project_id,
            or_(
                IngestJob.status.in_([JobStatus.QUEUED_FOR_VEC, JobStatus.VECTORIZING]),
                and_(IngestJob.status.in_(UNFINISHED), WorkJob.options.has_key("reembed")),
            ),
        )
    )
    if running is not None:
        raise ConflictError(
            f"job {running} is embedding records of the project already: wait for its end, or cancel it",
            job_id=running,
        )
    session.add(
        IngestJob(
            id=job_id,
            project_id=project_id,
            # The reference asks for one type a job, and this one takes up both: that of most records.
            type=_most_common_type(session, project_id),
            status=JobStatus.QUEUED_FOR_VEC,
        )
    )
    session.flush()
    session.add(
        WorkJob(
            job_id=job_id,
            ingest_job_id=job_id,
            options={"embed": True, "analyze": False, "reembed": "all" if is_all else ""},
        )
    )
    session.flush()
    note(session, "job.vectorize", "job", job_id, project_id, is_all=is_all)
    return VectorizationStart(job_id, ledger.open_stage(session, job_id, Stage.VECTORIZE))


def _most_common_type(session: Session, project_id: str) -> str:
    found = session.execute(
        select(DataRecord.type)
        .where(DataRecord.project_id == project_id)
        .group_by(DataRecord.type)
        .order_by(func.count().desc())
        .limit(1)
    ).scalar()
    if found is None:
        raise InputError("the project has no records to embed")
    return found
