"""The ledger as an observer sees it after a step, and what must hold of it whatever the step was."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, text

from pipeline.ledger import MAX_ATTEMPTS, PLAN, ChunkRef
from pipeline.states import ENDED, TRANSITIONS
from schemas.enums import ChunkState, JobKind, JobStatus, Stage


class ChunkRow(NamedTuple):
    """What is compared of a chunk."""

    state: str
    fence: int
    attempts: int
    leased_by: str | None
    has_lease: bool
    is_published: bool
    publications: int
    record_count: int
    done_count: int
    failed_count: int
    skipped_count: int


class StageRow(NamedTuple):
    """What is compared of a stage."""

    chunk_count: int
    ended_chunk_count: int
    failed_chunk_count: int
    total_count: int
    done_count: int
    failed_count: int
    is_planned: bool
    is_over: bool


class JobRow(NamedTuple):
    """What is compared of a job."""

    status: str
    total: int
    saved: int
    skipped: int
    processed: int
    has_error: bool
    is_stopping: bool


@dataclass(frozen=True)
class Snapshot:
    """All jobs, stages and chunks at one moment."""

    jobs: dict[str, JobRow]
    stages: dict[tuple[str, Stage], StageRow]
    chunks: dict[ChunkRef, ChunkRow]

    def differences(self, expected: "Snapshot") -> list[str]:
        """Say what is not as expected, one line a row."""
        pairs = ((self.jobs, expected.jobs), (self.stages, expected.stages), (self.chunks, expected.chunks))
        return [
            f"{key}: found {found.get(key)}, expected {wanted.get(key)}"
            for found, wanted in pairs
            for key in {**found, **wanted}
            if found.get(key) != wanted.get(key)
        ]


_JOBS = text("""
    SELECT job_id, status, "totalRecords", coalesce("savedCount", 0), coalesce("skippedCount", 0),
        coalesce("processedCount", 0), error IS NOT NULL, stopping IS NOT NULL, (
            SELECT coalesce(sum(value::int), 0) FROM jsonb_each_text("skippedDetails")
        ) AS detailed
    FROM work_jobs JOIN (
        SELECT id, status, error, "totalRecords", "savedCount", "skippedCount", "skippedDetails",
            NULL::int AS "processedCount"
        FROM ingest_jobs
        UNION ALL
        SELECT id, status, error, "totalRecords", NULL, NULL, NULL, "processedCount" FROM analytics_jobs
    ) AS job ON job.id = job_id
""")
_STAGES = text("""
    SELECT job_id, stage, chunk_count, ended_chunk_count, failed_chunk_count, total_count, done_count,
        failed_count, planned_at IS NOT NULL, ended_at IS NOT NULL
    FROM work_stages
""")
_CHUNKS = text("""
    SELECT job_id, stage, number, state, fence, attempts, CASE state WHEN 'LEASED' THEN leased_by END,
        leased_until IS NOT NULL, published_at IS NOT NULL, publications, record_count, done_count,
        failed_count, (SELECT coalesce(sum(value::int), 0) FROM jsonb_each_text(skipped))
    FROM work_chunks
""")


def read_snapshot(connection: Connection) -> Snapshot:
    """Read the whole ledger."""
    jobs = {}
    for job_id, *columns, detailed in connection.execute(_JOBS):
        jobs[job_id] = JobRow(*columns)
        assert detailed == jobs[job_id].skipped, f"{job_id} details {detailed} skipped rows: {columns}"
    stages = {
        (job_id, Stage(name)): StageRow(*columns) for job_id, name, *columns in connection.execute(_STAGES)
    }
    chunks = {
        ChunkRef(job_id, Stage(name), number): ChunkRow(*columns)
        for job_id, name, number, *columns in connection.execute(_CHUNKS)
    }
    return Snapshot(jobs, stages, chunks)


def find_faults(before: Snapshot, after: Snapshot, retried: str | None) -> Iterator[str]:
    """Name what must never be, in one snapshot or between two. Knows nothing of the model.

    Args:
        before: the ledger before a step.
        after: the ledger after it.
        retried: the one job that the step retried; every other one may only go forward.
    """
    for job_id, job in after.jobs.items():
        chunks = {ref: row for ref, row in after.chunks.items() if ref.job_id == job_id}
        yield from _faults_of_job(job_id, job, chunks)
        if job_id in before.jobs and job_id != retried:
            yield from _faults_of_move(job_id, before.jobs[job_id], job)
    for key, stage in after.stages.items():
        yield from _faults_of_stage(key, stage, after)
        if key in before.stages and key[0] != retried:
            yield from _falls(key, before.stages[key][:6], stage[:6])
    for ref, chunk in after.chunks.items():
        if chunk.attempts > MAX_ATTEMPTS:
            yield f"{ref} was tried {chunk.attempts} times"
        if chunk.has_lease != (chunk.state == ChunkState.LEASED):
            yield f"{ref} is {chunk.state} and {'has' if chunk.has_lease else 'has no'} lease"
        if ref in before.chunks and ref.job_id != retried:
            yield from _faults_of_end(ref, before.chunks[ref], chunk)


def _faults_of_job(job_id: str, job: JobRow, chunks: dict[ChunkRef, ChunkRow]) -> Iterator[str]:
    states = {row.state for row in chunks.values()}
    if job.status == JobStatus.COMPLETED and not states <= {ChunkState.DONE, ChunkState.FAILED}:
        yield f"{job_id} is COMPLETED with chunks {states}"
    if job.status in ENDED and states & {ChunkState.PENDING, ChunkState.LEASED}:
        yield f"{job_id} is {job.status} with chunks {states}"
    if job.status in ENDED and job.is_stopping:
        yield f"{job_id} is {job.status} and stopping for ever"
    ended = [(ref.stage, row) for ref, row in chunks.items() if ref.number != PLAN]
    loaded = [row for stage, row in ended if stage is Stage.LOAD]
    if any(row.state == ChunkState.FAILED for row in loaded) and job.status == JobStatus.COMPLETED:
        yield f"{job_id} is COMPLETED and has not loaded everything"
    counted = (
        sum(row.done_count for row in loaded),
        sum(row.skipped_count for row in loaded),
        sum(row.done_count + row.failed_count for stage, row in ended if stage is Stage.ANALYZE),
    )
    if counted != (job.saved, job.skipped, job.processed):
        yield f"{job_id} counts {job}, its chunks {counted}"
    if job.saved + job.skipped + job.processed > job.total:
        yield f"{job_id} counts more than there is: {job}"


def _faults_of_move(job_id: str, before: JobRow, after: JobRow) -> Iterator[str]:
    """Name what a job may not become of itself."""
    source, target = JobStatus(before.status), JobStatus(after.status)
    kind = JobKind.ANALYTICS if job_id.startswith(JobKind.ANALYTICS) else JobKind.INGEST
    table = TRANSITIONS[kind]
    if source is not target and (source in ENDED or target not in table[source]):
        # An empty plan begins and ends the work in one transaction.
        is_empty = target is JobStatus.COMPLETED and source is JobStatus.PENDING and after.total == 0
        if not is_empty:
            yield f"{job_id} went from {source} to {target}"
    yield from _falls(job_id, before[1:5], after[1:5])


def _faults_of_stage(key: tuple[str, Stage], stage: StageRow, after: Snapshot) -> Iterator[str]:
    chunks = [
        row for ref, row in after.chunks.items() if (ref.job_id, ref.stage) == key and ref.number != PLAN
    ]
    ended = [row for row in chunks if row.state in {ChunkState.DONE, ChunkState.FAILED}]
    counted = (
        len(chunks),
        len(ended),
        sum(row.state == ChunkState.FAILED for row in ended),
        sum(row.record_count for row in chunks),
        sum(row.done_count for row in ended),
        sum(row.failed_count for row in ended),
    )
    if counted != stage[:6]:
        yield f"{key} counts {stage}, its chunks {counted}"
    for row in ended:
        if row.done_count + row.failed_count + row.skipped_count != row.record_count:
            yield f"a chunk of {key} ended with other records than it had: {row}"


def _faults_of_end(ref: ChunkRef, before: ChunkRow, after: ChunkRow) -> Iterator[str]:
    """Name what may not happen to a chunk between two retries."""
    if after.fence < before.fence:
        yield f"the fence of {ref} fell"
    over = {ChunkState.DONE, ChunkState.FAILED, ChunkState.STOPPED}
    if before.state in over and after != before:
        yield f"{ref} had ended as {before} and became {after}"


def _falls(what: object, before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[str]:
    if any(new < old for old, new in zip(before, after, strict=True)):
        yield f"counters of {what} fell from {before} to {after}"
