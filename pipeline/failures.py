"""Records that a stage could not work on: listed with code and message, one row a record, job and stage."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, delete, func, literal, select, tuple_
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from pipeline.errors import InputError, PipelineError
from pipeline.ledger import Claim
from pipeline.states import job_table
from schemas.enums import AnalysisScope, JobKind, Stage
from schemas.options import AnalysisOptions
from schemas.own import RecordFailure, WorkJob
from schemas.reference import DataRecord, Project


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


@dataclass(frozen=True)
class FailedRecord:
    """A record that a stage of a job could not work on, and why."""

    record_id: str
    stage: Stage
    code: str
    message: str
    content: str
    created_at: datetime


@dataclass(frozen=True)
class FailurePage:
    """Some failed records, and where the next ones begin: None after the last."""

    failures: Sequence[FailedRecord]
    next_cursor: str | None


def read_failures(
    session: Session, job_id: str, *, limit: int = 50, cursor: str | None = None
) -> FailurePage:
    """Give a job's failed records, page by page, in order of stage and record.

    Args:
        session: the transaction to ask in.
        job_id: the job, by its whole id.
        limit: the most records of a page.
        cursor: `next_cursor` of the page before; None for the first.

    Raises:
        InputError: the cursor is none.
    """
    place = (RecordFailure.stage, RecordFailure.record_id)
    question = (
        select(RecordFailure, DataRecord.content)
        .join(DataRecord, DataRecord.id == RecordFailure.record_id)
        .where(RecordFailure.job_id == job_id)
        .order_by(*place)
        .limit(limit + 1)
    )
    if cursor is not None:
        stage, separator, record_id = cursor.partition(":")
        if not separator or "\0" in cursor:
            raise InputError("the cursor is none: take that of the page before as it is")
        question = question.where(tuple_(*place) > (stage, record_id))
    found = [
        FailedRecord(row.record_id, Stage(row.stage), row.code, row.message, content, row.created_at)
        for row, content in session.execute(question)
    ]
    last = found[limit - 1] if len(found) > limit else None
    return FailurePage(found[:limit], f"{last.stage}:{last.record_id}" if last else None)


def count_failures(session: Session, job_id: str) -> dict[str, int]:
    """Count a job's failed records by their codes, the most frequent first."""
    total = func.count().label("total")
    rows = session.execute(
        select(RecordFailure.code, total)
        .where(RecordFailure.job_id == job_id)
        .group_by(RecordFailure.code)
        .order_by(total.desc(), RecordFailure.code)
    )
    return {row.code: int(row.total) for row in rows}


def take_up_command(session: Session, kind: JobKind, job_id: str) -> str:
    """Give the command that takes up the records that failed in a completed job."""
    table = job_table(kind)
    project = shlex.quote(
        session.scalars(
            select(Project.name).join(table, table.project_id == Project.id).where(table.id == job_id)
        ).one()
    )
    if kind is not JobKind.ANALYTICS:
        return f"opspipe vectorize {project}"
    options = AnalysisOptions.model_validate(session.get_one(WorkJob, job_id).options)
    command = f"opspipe analyze {project}"
    if options.scope is not AnalysisScope.MISSING:
        # A record that failed still has the result that this job was to replace.
        command += f" --scope {options.scope}"
    return f"{command} --likert" if options.likert else command
