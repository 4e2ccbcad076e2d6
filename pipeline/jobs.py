"""Jobs as people see them: listing, progress, cancelling, retrying."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, case, func, literal, or_, select, union_all, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from pipeline import ledger
from pipeline.ai import Usage, list_spent, read_spent
from pipeline.audit import note_job
from pipeline.errors import ConflictError, InputError, NotFoundError
from pipeline.failures import count_failures, forget_failures, take_up_command
from pipeline.idempotency import claim_key
from pipeline.states import ENDED, RUNNING, UNFINISHED, WAITING, change_status, job_table, lock_job
from pipeline.uploads import find_upload
from schemas.enums import ChunkState, JobKind, JobStatus, RecordType, Stage
from schemas.options import AnalysisOptions
from schemas.own import WorkChunk, WorkJob, WorkStage
from schemas.reference import AnalyticsJob, IngestJob, Project


@dataclass(frozen=True)
class StageProgress:
    """How far one stage is, in records. `rate` is records a second since the stage was planned."""

    stage: Stage
    total: int
    done: int
    failed: int
    skipped: int
    seconds: float | None
    is_over: bool

    @property
    def settled(self) -> int:
        """Records that need no more work: done, failed or skipped."""
        return self.done + self.failed + self.skipped

    @property
    def rate(self) -> float | None:
        """Settled records a second; None before the first."""
        return self.settled / self.seconds if self.seconds and self.settled else None

    @property
    def eta_seconds(self) -> float | None:
        """Seconds left at this rate; None where nothing tells."""
        if self.is_over or not self.rate:
            return None
        return (self.total - self.settled) / self.rate


@dataclass(frozen=True)
class JobView:
    """A job of either kind with its counts and the progress of its stages."""

    id: str
    kind: JobKind
    status: JobStatus
    project_id: str
    project_name: str
    type: RecordType | None
    total_records: int
    saved_count: int
    skipped_count: int
    skipped_details: dict[str, int]
    processed_count: int
    error: str | None
    created_at: datetime
    updated_at: datetime
    stages: tuple[StageProgress, ...]
    follower_id: str | None = None
    # What its calls of models have used; None before the first.
    spent: Usage | None = None
    budget_usd: float | None = None
    # Why a chunk of it is not worked on at the moment, as a server that is away; None where none waits so.
    waiting_for: str | None = None

    @property
    def failed_count(self) -> int:
        """Records that its stages have given up for good, with the reason listed (`read_failures`)."""
        return sum(stage.failed for stage in self.stages if stage.stage in {Stage.VECTORIZE, Stage.ANALYZE})

    @property
    def is_ended(self) -> bool:
        """Whether the job is in a state that only a retry leaves."""
        return self.status in ENDED


def resolve_job(session: Session, job_id: str) -> tuple[JobKind, str]:
    """Find a job of either kind by its id or an unambiguous beginning of it.

    Raises:
        NotFoundError: none, or more than one, begins so.
    """
    rows = session.execute(
        union_all(
            select(IngestJob.id, literal(JobKind.INGEST).label("kind")).where(
                IngestJob.id.startswith(job_id, autoescape=True)
            ),
            select(AnalyticsJob.id, literal(JobKind.ANALYTICS).label("kind")).where(
                AnalyticsJob.id.startswith(job_id, autoescape=True)
            ),
        ).limit(2)
    ).all()
    if len(rows) != 1:
        problem = "more than one job begins with" if rows else "there is no job"
        raise NotFoundError(f"{problem} {job_id!r}: `opspipe jobs` lists them")
    return JobKind(rows[0].kind), rows[0].id


def view_job(session: Session, job_id: str) -> JobView:
    """Give a job's counts and progress, all from one snapshot.

    Raises:
        NotFoundError: there is no such job.
    """
    kind, full_id = resolve_job(session, job_id)
    return view_jobs(session, kind, ids=[full_id])[0]


def view_jobs(
    session: Session,
    kind: JobKind,
    *,
    ids: Sequence[str] | None = None,
    project_id: str | None = None,
    limit: int = 50,
) -> list[JobView]:
    """List jobs of one kind, newest first."""
    table: Any = job_table(kind)
    question = (
        select(table, Project.name.label("project_name"))
        .join(Project, Project.id == table.project_id)
        .order_by(table.created_at.desc(), table.id.desc())
        .limit(limit)
    )
    if ids is not None:
        question = question.where(table.id.in_(ids))
    if project_id is not None:
        question = question.where(table.project_id == project_id)
    rows = session.execute(question).all()
    stages = _stages(session, [job.id for job, _ in rows])
    ids = [job.id for job, _ in rows]
    followers, spent, budgets = _followers(session, ids), list_spent(session, ids), _budgets(session, ids)
    waiting = _waiting(session, [job.id for job, _ in rows if job.status in UNFINISHED])
    return [
        replace(
            _view(kind, job, project_name, stages.get(job.id, {})),
            follower_id=followers.get(job.id),
            spent=spent.get(job.id),
            budget_usd=budgets.get(job.id),
            waiting_for=waiting.get(job.id),
        )
        for job, project_name in rows
    ]


def _view(
    kind: JobKind,
    job: Any,  # noqa: ANN401 - a row of either job table
    project_name: str,
    stages: dict[Stage, StageProgress],
) -> JobView:
    ordered = tuple(stages[stage] for stage in Stage if stage in stages)
    return JobView(
        id=job.id,
        kind=kind,
        status=JobStatus(job.status),
        project_id=job.project_id,
        project_name=project_name,
        type=getattr(job, "type", None),
        total_records=job.total_records,
        saved_count=getattr(job, "saved_count", 0),
        skipped_count=getattr(job, "skipped_count", 0),
        skipped_details=dict(getattr(job, "skipped_details", None) or {}),
        processed_count=getattr(job, "processed_count", 0),
        error=job.error,
        created_at=job.created_at,
        updated_at=job.updated_at,
        stages=ordered,
    )


def _stages(session: Session, job_ids: Sequence[str]) -> dict[str, dict[Stage, StageProgress]]:
    seconds = func.extract("epoch", func.coalesce(WorkStage.ended_at, func.now()) - WorkStage.planned_at)
    # A load's skipped rows are counted with the job, in the same transaction as its stage's done ones.
    skipped = case((WorkStage.stage == Stage.LOAD, func.coalesce(IngestJob.skipped_count, 0)), else_=0)
    rows = session.execute(
        select(WorkStage, seconds, skipped)
        .outerjoin(IngestJob, IngestJob.id == WorkStage.job_id)
        .where(WorkStage.job_id.in_(job_ids))
    )
    found: dict[str, dict[Stage, StageProgress]] = {}
    for stage, elapsed, skipped_count in rows:
        name = Stage(stage.stage)
        found.setdefault(stage.job_id, {})[name] = StageProgress(
            stage=name,
            total=stage.total_count,
            done=stage.done_count,
            failed=stage.failed_count,
            skipped=skipped_count,
            seconds=None if elapsed is None else float(elapsed),
            is_over=stage.ended_at is not None,
        )
    return found


def _followers(session: Session, job_ids: Sequence[str]) -> dict[str, str]:
    rows = session.execute(
        select(WorkJob.follows_job_id, WorkJob.job_id).where(WorkJob.follows_job_id.in_(job_ids))
    )
    return {row.follows_job_id: row.job_id for row in rows if row.follows_job_id}


def _waiting(session: Session, job_ids: Sequence[str]) -> dict[str, str]:
    """Find why chunks wait that were given back: the reason of the one that waits longest."""
    rows = session.execute(
        select(WorkChunk.job_id, WorkChunk.error)
        .where(
            WorkChunk.job_id.in_(job_ids),
            WorkChunk.state == ChunkState.PENDING,
            WorkChunk.not_before > func.now(),
            WorkChunk.error.is_not(None),
        )
        .ext(distinct_on(WorkChunk.job_id))
        .order_by(WorkChunk.job_id, WorkChunk.not_before.desc())
    )
    return {row.job_id: row.error for row in rows if row.error}


def _budgets(session: Session, job_ids: Sequence[str]) -> dict[str, float]:
    budget = WorkJob.options["budget_usd"].as_float()
    rows = session.execute(
        select(WorkJob.job_id, budget).where(
            WorkJob.job_id.in_(job_ids), func.jsonb_typeof(WorkJob.options["budget_usd"]) == "number"
        )
    )
    return {row[0]: row[1] for row in rows}


def _lock_resolved(session: Session, job_id: str) -> tuple[JobKind, str, JobStatus]:
    kind, full_id = resolve_job(session, job_id)
    status = lock_job(session, kind, full_id)
    if status is None:
        raise NotFoundError(f"job {full_id} was deleted at this moment")
    return kind, full_id, status


def cancel_job(session: Session, job_id: str) -> str:
    """Cancel an unfinished job; what is being worked on is rolled back at its commit. Gives the full id.

    Raises:
        NotFoundError: there is no such job.
        ConflictError: it has ended already.
    """
    kind, full_id, status = _lock_resolved(session, job_id)
    if not change_status(session, kind, full_id, JobStatus.CANCELLED):
        raise ConflictError(f"job {full_id} is {status} and cannot be cancelled", job_id=full_id)
    ledger.stop_job(session, full_id)
    note_job(session, "job.cancel", kind, full_id, status=status)
    return full_id


def retry_job(session: Session, job_id: str, *, budget_usd: float | None = None) -> str:
    """Take up what is unfinished or failed in a failed or cancelled job again. Gives the full id.

    Args:
        session: the transaction to do it in.
        job_id: the job, or an unambiguous beginning of its id.
        budget_usd: what an analysis may cost in all from now on, what it has cost already included; None
            leaves its budget as it is.

    Raises:
        NotFoundError: there is no such job, or its upload was removed before it was loaded.
        InputError: the job is no analysis and so has no budget.
        ConflictError: it is running or completed (then it says what takes up the records that failed), the
            project has another active analysis, or the budget is spent.
        KeyTakenError: the same request did it already (see `pipeline.idempotency`).
    """
    claim_key(session, resolve_job(session, job_id)[1])
    kind, full_id, status = _lock_resolved(session, job_id)
    if status not in {JobStatus.FAILED, JobStatus.CANCELLED}:
        hint = _failed_records_hint(session, kind, full_id) if status is JobStatus.COMPLETED else ""
        raise ConflictError(f"job {full_id} is {status}: only failed and cancelled ones are retried{hint}")
    stage = _unfinished_stage(session, full_id)
    if stage is None:
        raise ConflictError(f"job {full_id} is {status} and has no work on the ledger: submit it again")
    if stage.stage == Stage.LOAD:
        find_upload(session, full_id)
    _set_budget(session, kind, full_id, budget_usd)
    target = (WAITING if stage.planned_at is None else RUNNING)[Stage(stage.stage)]
    try:
        with session.begin_nested():
            change_status(session, kind, full_id, target)
    except IntegrityError as error:  # analytics_jobs_one_active
        raise ConflictError("the project is being analyzed by another job: wait for its end") from error
    _reopen(session, stage)
    note_job(session, "job.retry", kind, full_id, stage=stage.stage, budget_usd=budget_usd)
    return full_id


def _failed_records_hint(session: Session, kind: JobKind, job_id: str) -> str:
    """Say what takes up the records that failed in a completed job; empty where none did."""
    count = sum(count_failures(session, job_id).values())
    if not count:
        return ""
    records = "record" if count == 1 else "records"
    return f". `{take_up_command(session, kind, job_id)}` takes up the {count} {records} that failed in it"


def _set_budget(session: Session, kind: JobKind, job_id: str, budget_usd: float | None) -> None:
    if budget_usd is not None:
        if kind is not JobKind.ANALYTICS:
            raise InputError(f"job {job_id} is no analysis: only these have a budget")
        job = session.get_one(WorkJob, job_id)
        options = AnalysisOptions.model_validate(job.options | {"budget_usd": budget_usd})
        job.options = options.model_dump(mode="json")
        session.flush()
    budget, spent = _budgets(session, [job_id]).get(job_id), read_spent(session, job_id).cost_usd or 0.0
    if budget is not None and spent >= budget:
        raise ConflictError(
            f"job {job_id} has cost {spent:.4g} USD and its budget is {budget:.4g} USD: "
            "give a larger one with `--budget` (budgetUsd)",
            job_id=job_id,
        )


def _is_open() -> ColumnElement[bool]:
    """A chunk that a retry takes up: stopped, given up, or done with records that failed."""
    return or_(WorkChunk.state.in_([ChunkState.FAILED, ChunkState.STOPPED]), WorkChunk.failed_count > 0)


def _unfinished_stage(session: Session, job_id: str) -> WorkStage | None:
    """Give the stage that the job had come to.

    One before it may have records that failed, and is over all the same: what follows it is begun only once.
    """
    unfinished = select(WorkChunk.stage).where(WorkChunk.job_id == job_id, _is_open()).distinct()
    return session.scalar(
        select(WorkStage)
        .where(WorkStage.job_id == job_id, WorkStage.stage.in_(unfinished))
        .order_by(WorkStage.queued_at.desc())
        .limit(1)
    )


def _reopen(session: Session, stage: WorkStage) -> None:
    """Put the open chunks back, and take off the counters what they had put on them."""
    is_meant = (WorkChunk.job_id == stage.job_id, WorkChunk.stage == stage.stage, _is_open())
    ended, failed_chunks, done, failed = session.execute(
        select(
            func.count().filter(WorkChunk.state != ChunkState.STOPPED),
            func.count().filter(WorkChunk.state == ChunkState.FAILED),
            func.coalesce(func.sum(WorkChunk.done_count), 0),
            func.coalesce(func.sum(WorkChunk.failed_count), 0),
        ).where(*is_meant)
    ).one()
    session.execute(
        update(WorkStage)
        .where(WorkStage.job_id == stage.job_id, WorkStage.stage == stage.stage)
        .values(
            ended_chunk_count=WorkStage.ended_chunk_count - ended,
            failed_chunk_count=WorkStage.failed_chunk_count - failed_chunks,
            done_count=WorkStage.done_count - done,
            failed_count=WorkStage.failed_count - failed,
            ended_at=None,
        )
        .execution_options(synchronize_session=False)
    )
    if stage.stage == Stage.ANALYZE:
        session.execute(
            update(AnalyticsJob)
            .where(AnalyticsJob.id == stage.job_id)
            .values(processed_count=AnalyticsJob.processed_count - done - failed)
        )
    forget_failures(session, stage.job_id, stage.stage)
    session.execute(
        update(WorkChunk)
        .where(*is_meant)
        .values(
            state=ChunkState.PENDING,
            attempts=0,
            done_count=0,
            failed_count=0,
            not_before=None,
            published_at=None,
            publications=0,
            ended_at=None,
        )
        .execution_options(synchronize_session=False)
    )
