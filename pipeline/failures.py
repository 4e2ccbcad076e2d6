"""Records that a stage could not work on: listed with code and message, one row a record, job and stage."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, and_, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pipeline.errors import PipelineError
from pipeline.ledger import Claim
from schemas.enums import Stage
from schemas.own import RecordFailure
from schemas.reference import DataRecord


@dataclass(frozen=True)
class Failure:
    """One record and why it failed."""

    record_id: str
    error: PipelineError


def list_failures(session: Session, held: Claim, failures: Sequence[Failure]) -> int:
    """List single records of a chunk; one that is listed already keeps its first reason.

    The job's row must be locked (`flow.lock_running`).

    Returns:
        How many of the records are still there: one that was deleted meanwhile has not failed.
    """
    if not failures:
        return 0
    alive = set(session.scalars(_lock_alive(DataRecord.id.in_([failure.record_id for failure in failures]))))
    rows = [
        {
            "job_id": held.ref.job_id,
            "stage": held.ref.stage,
            "record_id": failure.record_id,
            "code": failure.error.code,
            "message": str(failure.error),
        }
        for failure in failures
        if failure.record_id in alive
    ]
    if rows:
        session.execute(upsert(RecordFailure).values(rows).on_conflict_do_nothing())
    return len(rows)


def _lock_alive(is_meant: ColumnElement[bool]) -> Select[str]:
    """Ask for records that nobody can delete before this transaction ends."""
    return select(DataRecord.id).where(is_meant).with_for_update(read=True, key_share=True)


def list_chunk(session: Session, held: Claim, message: str) -> None:
    """List every record of a chunk that was given up.

    Rows of a file are no records yet, and a comparison is of many records: none of these are listed.
    """
    if held.ref.stage in {Stage.LOAD, Stage.COMPARE}:
        return
    is_of_chunk: ColumnElement[bool]
    if "ids" in held.span:
        is_of_chunk = DataRecord.id.in_(held.span["ids"])
    else:
        # A range is one of pending records that the job has loaded: others may lie between.
        is_of_chunk = and_(
            DataRecord.ingest_job_id == held.ref.job_id,
            DataRecord.id.between(held.span["first_id"], held.span["last_id"]),
            func.cardinality(DataRecord.embedding) == 0,
        )
    columns = ("job_id", "stage", "record_id", "code", "message")
    found = select(
        literal(held.ref.job_id),
        literal(held.ref.stage),
        DataRecord.id,
        literal("CHUNK_GIVEN_UP"),
        literal(message),
    ).where(DataRecord.id.in_(session.scalars(_lock_alive(is_of_chunk)).all()))
    session.execute(upsert(RecordFailure).from_select(columns, found).on_conflict_do_nothing())


def forget_failures(session: Session, job_id: str, stage: str) -> None:
    """Take a stage's failures off the list, because its chunks are taken up again."""
    session.execute(delete(RecordFailure).where(RecordFailure.job_id == job_id, RecordFailure.stage == stage))
