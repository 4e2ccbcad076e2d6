"""Jobs as people see them: counts and progress, by one statement and so from one snapshot."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from sqlalchemy import literal, select, union_all
from sqlalchemy.orm import Session

from pipeline.ai import Usage
from pipeline.database import driver_connection
from pipeline.errors import NotFoundError
from pipeline.states import ENDED
from schemas.enums import JobKind, JobStatus, RecordType, Stage
from schemas.reference import AnalyticsJob, IngestJob

# What the two kinds of jobs are told of from their own tables.
_OWN = {
    JobKind.INGEST: (
        "ingest_jobs",
        """job.type, job."totalRecords", job."savedCount", coalesce(job."skippedCount", 0),
        job."skippedDetails", 0""",
    ),
    JobKind.ANALYTICS: ("analytics_jobs", """NULL, job."totalRecords", 0, 0, NULL, job."processedCount\""""),
}
# A load's skipped rows are counted with the job, in the same transaction as its stage's done ones. Why it
# waits is told of the chunk that waits longest of those that were given back.
_QUESTION = """
SELECT job.id, job."projectId", project.name, job.status, job.error, job."createdAt", job."updatedAt", {own},
    (SELECT jsonb_agg(jsonb_build_array(
            stage.stage, stage.total_count, stage.done_count, stage.failed_count,
            extract(epoch FROM coalesce(stage.ended_at, now()) - stage.planned_at),
            stage.ended_at IS NOT NULL))
        FROM work_stages stage WHERE stage.job_id = job.id),
    (SELECT follower.job_id FROM work_jobs follower WHERE follower.follows_job_id = job.id LIMIT 1),
    (SELECT jsonb_build_array(sum(call_count), sum(input_tokens), sum(output_tokens), sum(cost_usd))
        FROM ai_usage usage WHERE usage.job_id = job.id HAVING count(*) > 0),
    (SELECT CAST(work.options ->> 'budget_usd' AS double precision) FROM work_jobs work
        WHERE work.job_id = job.id AND jsonb_typeof(work.options -> 'budget_usd') = 'number'),
    (SELECT chunk.error FROM work_chunks chunk
        WHERE chunk.job_id = job.id AND chunk.state = 'PENDING' AND chunk.not_before > now()
            AND chunk.error IS NOT NULL AND job.status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')
        ORDER BY chunk.not_before DESC LIMIT 1)
FROM {table} job JOIN projects project ON project.id = job."projectId"
WHERE {meant}
ORDER BY job."createdAt" DESC, job.id DESC
LIMIT %(limit)s
"""
_BY_IDS, _BY_PROJECT, _ALL = "job.id = ANY(%(ids)s)", 'job."projectId" = %(project_id)s', "true"
# Made once: to build a statement of this size anew takes longer than to answer it.
_QUESTIONS = {
    (kind, meant): _QUESTION.format(table=table, own=own, meant=meant).encode()
    for kind, (table, own) in _OWN.items()
    for meant in (_BY_IDS, _BY_PROJECT, _ALL)
}


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
    views = view_jobs(session, kind, ids=[full_id])
    if not views:
        raise NotFoundError(f"job {full_id} was deleted at this moment")
    return views[0]


def view_jobs(
    session: Session | psycopg.Connection[Any],
    kind: JobKind,
    *,
    ids: Sequence[str] | None = None,
    project_id: str | None = None,
    limit: int = 50,
) -> list[JobView]:
    """List jobs of one kind, newest first, all from one snapshot.

    Args:
        session: the transaction to ask in, or a connection of the driver.
        kind: which kind.
        ids: only these, by their whole ids.
        project_id: or only those of this project.
        limit: this many at most.
    """
    meant = _ALL if project_id is None else _BY_PROJECT
    if ids is not None:
        meant = _BY_IDS
    values = {"ids": None if ids is None else list(ids), "project_id": project_id, "limit": limit}
    if isinstance(session, Session):
        session.flush()
        session = driver_connection(session)
    return [_view(kind, row) for row in session.execute(_QUESTIONS[kind, meant], values)]


def _view(kind: JobKind, row: Sequence[Any]) -> JobView:
    """Make sense of a row of `_QUESTION`."""
    job_id, project_id, project_name, status, error, created_at, updated_at, *counts = row
    record_type, total, saved, skipped, details, processed, stages, follower, spent, budget, waiting = counts
    found = {Stage(stage[0]): _stage(stage, skipped) for stage in stages or ()}
    return JobView(
        id=job_id,
        kind=kind,
        status=JobStatus(status),
        project_id=project_id,
        project_name=project_name,
        type=None if record_type is None else RecordType(record_type),
        total_records=total,
        saved_count=saved,
        skipped_count=skipped,
        skipped_details=details or {},
        processed_count=processed,
        error=error,
        created_at=created_at,
        updated_at=updated_at,
        stages=tuple(found[stage] for stage in Stage if stage in found),
        follower_id=follower,
        spent=None if spent is None else Usage(int(spent[0]), int(spent[1]), int(spent[2]), float(spent[3])),
        budget_usd=budget,
        waiting_for=waiting,
    )


def _stage(row: Sequence[Any], skipped: int) -> StageProgress:
    name, total, done, failed, seconds, is_over = row
    return StageProgress(
        stage=Stage(name),
        total=total,
        done=done,
        failed=failed,
        skipped=skipped if name == Stage.LOAD else 0,
        seconds=None if seconds is None else float(seconds),
        is_over=is_over,
    )
