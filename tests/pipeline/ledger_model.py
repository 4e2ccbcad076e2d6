"""What the ledger is meant to do, in plain Python: jobs, their chunks and a clock, and no database.

Written after the contract (section 6) and the decisions, not after the code. Time is counted in seconds,
moves only when it is told to, and only in steps of `TICK`: the milliseconds between two steps never matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.ledger import MAX_ATTEMPTS, PLAN, ChunkRef
from pipeline.states import UNFINISHED
from schemas.enums import ChunkState, JobKind, JobStatus, Stage
from tests.pipeline.ledger_snapshot import ChunkRow, JobRow, Snapshot, StageRow

TICK = 15
# A message is waited for as long as a lease is set to last, and longer each time.
PATIENCE, MOST_DOUBLINGS = TICK, 5
# Chunks of a job that wait for a worker: one for each that is worked on, within these bounds.
LEAST_QUEUED, WINDOW = 4, 3

_OPEN = (ChunkState.PENDING, ChunkState.LEASED)
_ENDED = (ChunkState.DONE, ChunkState.FAILED)


@dataclass
class ModelChunk:
    """A chunk as it should be. Moments are those of the model's clock."""

    ref: ChunkRef
    records: int = 0
    state: ChunkState = ChunkState.PENDING
    fence: int = 0
    attempts: int = 0
    worker: str | None = None
    leased_until: int | None = None
    not_before: int = 0
    published_at: int | None = None
    publications: int = 0
    done: int = 0
    failed: int = 0
    skipped: int = 0

    def end(self, state: ChunkState, *, done: int = 0, failed: int = 0, skipped: int = 0) -> None:
        self.state, self.leased_until = state, None
        self.done, self.failed, self.skipped = done, failed, skipped

    def stop(self) -> None:
        if self.state in _OPEN:
            self.state, self.leased_until = ChunkState.STOPPED, None

    def publish(self, now: int) -> ChunkRef:
        self.published_at, self.publications = now, self.publications + 1
        return self.ref

    def is_expired(self, now: int) -> bool:
        return self.state is ChunkState.LEASED and (self.leased_until or 0) <= now

    def is_lost(self, now: int) -> bool:
        """Whether its message is to be taken for lost."""
        if self.is_expired(now):
            return self.published_at is None or now - self.published_at >= PATIENCE
        if self.state is not ChunkState.PENDING or self.published_at is None or self.not_before > now:
            return False
        return now - self.published_at >= PATIENCE * 2 ** min(self.publications - 1, MOST_DOUBLINGS)

    def row(self) -> ChunkRow:
        return ChunkRow(
            state=self.state,
            fence=self.fence,
            attempts=self.attempts,
            leased_by=self.worker if self.state is ChunkState.LEASED else None,
            has_lease=self.leased_until is not None,
            is_published=self.published_at is not None,
            publications=self.publications,
            record_count=self.records,
            done_count=self.done,
            failed_count=self.failed,
            skipped_count=self.skipped,
        )


@dataclass
class ModelStage:
    """A stage: its chunks by number. `total` is None until it is planned."""

    chunks: dict[int, ModelChunk]
    total: int | None = None

    def planned(self) -> list[ModelChunk]:
        return [chunk for number, chunk in self.chunks.items() if number != PLAN]

    def is_over(self) -> bool:
        return self.total is not None and all(chunk.state in _ENDED for chunk in self.planned())

    def row(self) -> StageRow:
        ended = [chunk for chunk in self.planned() if chunk.state in _ENDED]
        return StageRow(
            chunk_count=len(self.planned()),
            ended_chunk_count=len(ended),
            failed_chunk_count=sum(chunk.state is ChunkState.FAILED for chunk in ended),
            total_count=self.total or 0,
            done_count=sum(chunk.done for chunk in ended),
            failed_count=sum(chunk.failed for chunk in ended),
            is_planned=self.total is not None,
            is_over=self.is_over(),
        )


@dataclass
class ModelJob:
    """A job: its status and its stages in the order in which it came to them."""

    id: str
    kind: JobKind
    is_embedding: bool
    status: JobStatus = JobStatus.PENDING
    is_stopping: bool = False
    stages: dict[Stage, ModelStage] = field(default_factory=dict)

    def open_stage(self, stage: Stage) -> None:
        self.stages[stage] = ModelStage({PLAN: ModelChunk(ChunkRef(self.id, stage, PLAN))})

    def chunks(self) -> list[ModelChunk]:
        return [chunk for stage in self.stages.values() for chunk in stage.chunks.values()]

    def end(self, status: JobStatus) -> None:
        self.status, self.is_stopping = status, False
        for chunk in self.chunks():
            chunk.stop()

    def fail_if_stopped(self, now: int) -> None:
        is_worked_on = any(
            chunk.state is ChunkState.LEASED and not chunk.is_expired(now) for chunk in self.chunks()
        )
        if self.is_stopping and not is_worked_on:
            self.end(JobStatus.FAILED)

    def row(self) -> JobRow:
        rows = {name: stage.row() for name, stage in self.stages.items()}
        loaded, counted = rows.get(Stage.LOAD), rows.get(Stage.LOAD) or rows[Stage.ANALYZE]
        skipped = sum(chunk.skipped for chunk in self.chunks())
        return JobRow(
            status=self.status,
            total=counted.total_count,
            saved=loaded.done_count if loaded else 0,
            skipped=skipped,
            processed=0 if loaded else counted.done_count + counted.failed_count,
            has_error=self.status is JobStatus.FAILED,
            is_stopping=self.is_stopping,
        )


class Model:
    """Everything that should be on the ledger, and what each step should make of it."""

    def __init__(self) -> None:
        self.now = 0
        self.jobs: dict[str, ModelJob] = {}

    def submit(self, job_id: str, kind: JobKind, *, is_embedding: bool = False) -> None:
        job = self.jobs[job_id] = ModelJob(job_id, kind, is_embedding)
        job.open_stage(Stage.LOAD if kind is JobKind.INGEST else Stage.ANALYZE)

    def find(self, ref: ChunkRef) -> ModelChunk | None:
        job = self.jobs.get(ref.job_id)
        stage = job.stages.get(ref.stage) if job else None
        return stage.chunks.get(ref.number) if stage else None

    def chunk(self, ref: ChunkRef) -> ModelChunk:
        return self.jobs[ref.job_id].stages[ref.stage].chunks[ref.number]

    def chunks(self) -> list[ModelChunk]:
        return [chunk for job in self.jobs.values() for chunk in job.chunks()]

    def is_free(self, ref: ChunkRef) -> bool:
        """Whether a claim should be given the chunk."""
        chunk = self.find(ref)
        return (
            chunk is not None
            and (chunk.state is ChunkState.PENDING or chunk.is_expired(self.now))
            and chunk.not_before <= self.now
            and chunk.attempts < MAX_ATTEMPTS
            and not self.jobs[ref.job_id].is_stopping
        )

    def is_held(self, ref: ChunkRef, fence: int) -> bool:
        """Whether who claimed the chunk with this fence may still end it."""
        chunk = self.find(ref)
        return chunk is not None and chunk.state is ChunkState.LEASED and chunk.fence == fence

    def claim(self, ref: ChunkRef, worker: str, lease: int) -> ModelChunk:
        chunk = self.chunk(ref)
        chunk.state, chunk.worker, chunk.leased_until = ChunkState.LEASED, worker, self.now + lease
        chunk.fence, chunk.attempts = chunk.fence + 1, chunk.attempts + 1
        return chunk

    def finish_plan(self, ref: ChunkRef, sizes: Sequence[int]) -> None:
        job, chunk = self.jobs[ref.job_id], self.chunk(ref)
        stage = job.stages[ref.stage]
        chunk.end(ChunkState.DONE)
        stage.total = sum(sizes)
        for number, size in enumerate(sizes, start=1):
            stage.chunks[number] = ModelChunk(ChunkRef(ref.job_id, ref.stage, number), size)
        is_vectorizing = ref.stage in {Stage.VECTORIZE, Stage.COMPARE}
        job.status = JobStatus.VECTORIZING if is_vectorizing else JobStatus.PROCESSING
        if not sizes:
            self._after(ref)

    def finish_chunk(self, ref: ChunkRef, *, done: int, failed: int, skipped: int) -> None:
        self.chunk(ref).end(ChunkState.DONE, done=done, failed=failed, skipped=skipped)
        self._after(ref)

    def finish_part(self, ref: ChunkRef, *, done: int, failed: int) -> None:
        chunk, stage = self.chunk(ref), self.jobs[ref.job_id].stages[ref.stage]
        part = ModelChunk(ChunkRef(ref.job_id, ref.stage, len(stage.planned()) + 1), done + failed)
        part.end(ChunkState.DONE, done=done, failed=failed)
        stage.chunks[part.ref.number] = part
        chunk.records -= part.records

    def fail_chunk(self, ref: ChunkRef) -> None:
        chunk = self.chunk(ref)
        if ref.number == PLAN:
            self.jobs[ref.job_id].end(JobStatus.FAILED)
            return
        chunk.end(ChunkState.FAILED, failed=chunk.records)
        self._after(ref)

    def _after(self, ref: ChunkRef) -> None:
        """See what the end of a chunk means for its job."""
        job, stage = self.jobs[ref.job_id], self.jobs[ref.job_id].stages[ref.stage]
        row = stage.row()
        if not stage.is_over():
            job.fail_if_stopped(self.now)
        elif (ref.stage is Stage.LOAD and row.failed_chunk_count) or (
            row.failed_count and not row.done_count
        ):
            job.end(JobStatus.FAILED)
        elif ref.stage is Stage.LOAD and row.done_count and job.is_embedding:
            job.status = JobStatus.QUEUED_FOR_VEC
            job.open_stage(Stage.VECTORIZE)
        elif ref.stage is Stage.VECTORIZE:
            job.open_stage(Stage.COMPARE)
        else:
            job.end(JobStatus.COMPLETED)

    def give_back(self, ref: ChunkRef, *, delay: int, is_counted: bool) -> None:
        self._release(ref, delay=delay, is_counted=is_counted)
        self.jobs[ref.job_id].fail_if_stopped(self.now)

    def stop(self, ref: ChunkRef) -> None:
        job = self.jobs[ref.job_id]
        job.is_stopping = True
        self._release(ref, delay=0, is_counted=False)
        for chunk in job.chunks():
            if chunk.state is ChunkState.PENDING:
                chunk.stop()
        job.fail_if_stopped(self.now)

    def _release(self, ref: ChunkRef, *, delay: int, is_counted: bool) -> None:
        chunk = self.chunk(ref)
        chunk.state, chunk.leased_until = ChunkState.PENDING, None
        chunk.attempts -= 0 if is_counted else 1
        chunk.not_before = self.now + delay
        chunk.published_at, chunk.publications = None, 0
        if self.jobs[ref.job_id].is_stopping:
            chunk.stop()

    def can_be_retried(self, job_id: str) -> bool:
        """Whether a job is failed or cancelled and may run again: of analyses, one at a time."""
        job = self.jobs[job_id]
        is_open = job.status in {JobStatus.FAILED, JobStatus.CANCELLED}
        return is_open and (job.kind is JobKind.INGEST or not self.is_analyzing())

    def is_analyzing(self) -> bool:
        return any(job.kind is JobKind.ANALYTICS and job.status in UNFINISHED for job in self.jobs.values())

    def retry(self, job_id: str) -> None:
        job = self.jobs[job_id]
        # The stage that the job had come to; those before it are over.
        name, stage = list(job.stages.items())[-1]
        if name in {Stage.LOAD, Stage.ANALYZE}:
            job.status = JobStatus.PENDING if stage.total is None else JobStatus.PROCESSING
        elif name is Stage.VECTORIZE and stage.total is None:
            job.status = JobStatus.QUEUED_FOR_VEC
        else:
            job.status = JobStatus.VECTORIZING
        for chunk in stage.chunks.values():
            if chunk.state is not ChunkState.DONE or chunk.failed:
                chunk.state, chunk.attempts, chunk.not_before = ChunkState.PENDING, 0, 0
                chunk.published_at, chunk.publications = None, 0
                chunk.done = chunk.failed = 0

    def room(self, job_id: str) -> int:
        """How many more chunks of a job may be published without being asked for."""
        chunks = self.jobs[job_id].chunks() if job_id in self.jobs else []
        leased = sum(chunk.state is ChunkState.LEASED for chunk in chunks)
        queued = sum(chunk.state is ChunkState.PENDING and chunk.published_at is not None for chunk in chunks)
        return max(min(WINDOW, max(LEAST_QUEUED, leased)) - queued, 0)

    def take_unpublished(self, job_id: str, limit: int | None) -> list[ChunkRef]:
        job = self.jobs.get(job_id)
        limit = self.room(job_id) if limit is None else limit
        waiting = [
            chunk
            for chunk in (job.chunks() if job else [])
            if chunk.state is ChunkState.PENDING
            and chunk.published_at is None
            and chunk.not_before <= self.now
        ]
        waiting.sort(key=lambda chunk: chunk.ref.number)
        return [chunk.publish(self.now) for chunk in waiting[:limit]]

    def exhausted(self) -> list[ModelChunk]:
        return [
            chunk for chunk in self.chunks() if chunk.is_expired(self.now) and chunk.attempts >= MAX_ATTEMPTS
        ]

    def sweep(self) -> list[ChunkRef]:
        for chunk in self.exhausted():
            if chunk.state is ChunkState.LEASED:  # and not stopped with the job by one before it
                self.fail_chunk(chunk.ref)
        for job in self.jobs.values():
            job.fail_if_stopped(self.now)
        refs = [chunk.publish(self.now) for chunk in self.chunks() if chunk.is_lost(self.now)]
        for job in self.jobs.values():
            refs += self.take_unpublished(job.id, None)
        return refs

    def snapshot(self) -> Snapshot:
        return Snapshot(
            jobs={job.id: job.row() for job in self.jobs.values()},
            stages={
                (job.id, name): stage.row()
                for job in self.jobs.values()
                for name, stage in job.stages.items()
            },
            chunks={chunk.ref: chunk.row() for chunk in self.chunks()},
        )
