"""Jobs of all kinds, few under way at a time: what is asked for follows from the seed."""

import io
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.analyze import start_analysis
from pipeline.database import transaction
from pipeline.errors import ConflictError, DuplicateError, InputError, NotFoundError, TransientError
from pipeline.ingest.submit import submit_csv
from pipeline.jobs import cancel_job, retry_job
from pipeline.ledger import ChunkRef
from pipeline.projects import ensure_project, set_guidelines
from pipeline.removal import delete_job
from pipeline.runner import publish_next
from pipeline.system_settings import write_setting
from pipeline.vectorize import start_vectorization
from schemas.enums import AnalysisScope, RecordType
from schemas.options import AnalysisOptions, IngestOptions
from tasks import publish, publish_removals
from tests.faults.soak.batches import Batch
from tests.faults.soak.models import LANGUAGE_MODELS

T = TypeVar("T")

_PROJECTS = 4
_MOST_UNDER_WAY = 4
_SIZES = (20, 150, 400, 1_200)
# Before a project gets more rows than this, its oldest batch is deleted.
_MOST_ROWS = 3_000
_PATIENCE_SECONDS = 120.0
# How often each kind is asked for, of all.
_WEIGHTS = {
    "submit": 10,
    "submit_again": 1,
    "analyze": 4,
    "vectorize": 3,
    "cancel": 3,
    "retry": 2,
    "delete": 1,
    "change_model": 1,
}
_UNDER_WAY = text("""
    SELECT id FROM (
        SELECT id, "createdAt" FROM ingest_jobs
        WHERE status IN ('PENDING', 'PROCESSING', 'QUEUED_FOR_VEC', 'VECTORIZING')
        UNION ALL SELECT id, "createdAt" FROM analytics_jobs WHERE status IN ('PENDING', 'PROCESSING')
    ) AS jobs ORDER BY "createdAt", id
""")
_DUE = text("""
    SELECT (SELECT count(*) FROM removals) + (
        SELECT count(*) FROM work_jobs AS work JOIN ingest_jobs AS job ON job.id = work.ingest_job_id
        WHERE job.status = 'COMPLETED' AND CAST(work.options ->> 'analyze' AS boolean)
            AND NOT EXISTS (SELECT FROM work_jobs AS next WHERE next.follows_job_id = work.job_id)
    )
""")
# What a cancellation or a deletion may interrupt: chunks of the job itself, or of records that go.
_HELD = text("""
    SELECT stage, count(*) AS chunks FROM work_chunks
    WHERE state = 'LEASED' AND stage IN ('vectorize', 'analyze') GROUP BY stage
""")
_OF_BATCH = text("""
    SELECT job.id FROM ingest_jobs AS job JOIN work_jobs AS work ON work.ingest_job_id = job.id
    JOIN uploads ON uploads.id = work.upload_id WHERE uploads.file_name = :name
""")


def patiently(action: Callable[[], T]) -> T:
    """Do something as often as the database, or what is between, is away."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return action()
        except TransientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def list_under_way() -> list[str]:
    """List the jobs that have not ended, the oldest first."""
    with transaction() as session:
        return list(session.scalars(_UNDER_WAY))


def is_all_done() -> bool:
    """Tell whether every job has ended, what follows from it and what it leaves behind included."""
    with transaction() as session:
        return not session.scalars(_UNDER_WAY).all() and session.scalar(_DUE) == 0


class Mixture:
    """Asks for one thing after the other.

    Args:
        rng: decides what, of whom and when.
        guidelines: a PDF.
        storage: held while a file is submitted; whoever takes the storage away holds it as well, because a
            submission makes the folder that it misses.
    """

    def __init__(self, rng: Random, guidelines: Path, storage: threading.Lock) -> None:
        self._rng = rng
        self._guidelines = guidelines
        self._storage = storage
        self._projects: list[str] = []
        # Those that were not deleted, the oldest first.
        self.batches: list[Batch] = []
        # What was asked for, and how often there was nothing to do it to.
        self.asked: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        # Chunks by stage that somebody worked on when a job was cancelled or deleted.
        self.interrupted: Counter[str] = Counter()
        # Jobs that may be CANCELLED, and those that must be.
        self.cancelled: set[str] = set()
        self.stay_cancelled: set[str] = set()

    def make_projects(self) -> None:
        """Make the projects, with guidelines."""
        with transaction() as session:
            for number in range(_PROJECTS):
                project = ensure_project(session, f"soak {number}")
                set_guidelines(session, project.id, self._guidelines.read_bytes(), file_name="guidelines.pdf")
                self._projects.append(project.id)

    def run(self, over: Callable[[], bool]) -> None:
        """Ask until it is over, with few jobs under way at a time."""
        while not over():
            if len(patiently(list_under_way)) < _MOST_UNDER_WAY:
                self._ask()
            time.sleep(self._rng.uniform(0.1, 1.0))

    def settle(self) -> None:
        """Have done what is left to do: embeddings that a cancelled job has not made, and all analyses."""
        for project_id in self._projects:
            with suppress(InputError):  # it has no records
                self._start_vectorization(project_id)
            self._start_analysis(project_id, AnalysisOptions())

    def _ask(self) -> None:
        (name,) = self._rng.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        self.asked[name] += 1
        try:
            getattr(self, f"_{name}")()
        except (ConflictError, InputError):
            self.refused[name] += 1

    def _submit(self) -> None:
        rng, project = self._rng, self._rng.randrange(_PROJECTS)
        record_type = rng.choices((RecordType.TASK, RecordType.FEEDBACK), (3, 1))[0]
        batch = Batch(f"b{self.asked['submit']}", project, record_type, rng.choice(_SIZES))
        while self._rows_of(project) + batch.rows > _MOST_ROWS:
            self._delete_batch(next(entry for entry in self.batches if entry.project == project))
        self.batches.append(batch)
        self._send(batch, embed=rng.random() < 0.8, analyze=rng.random() < 0.5)

    def _submit_again(self) -> None:
        if self.batches:
            self._send(self._rng.choice(self.batches), embed=True, analyze=False, force=True)

    def _rows_of(self, project: int) -> int:
        return sum(batch.rows for batch in self.batches if batch.project == project)

    def _send(self, batch: Batch, *, embed: bool, analyze: bool, force: bool = False) -> None:
        options = IngestOptions(record_type=batch.record_type, embed=embed, analyze=analyze)

        def send() -> None:
            with self._storage:
                submission = submit_csv(
                    self._projects[batch.project],
                    io.BytesIO(batch.content()),
                    file_name=batch.name,
                    options=options,
                    force=force,
                )
            publish([submission.plan])

        # Where the first try was committed and the answer lost, the sweeper publishes it.
        with suppress(DuplicateError):
            patiently(send)

    def _analyze(self) -> None:
        rng, project_id = self._rng, self._rng.choice(self._projects)
        options = AnalysisOptions(scope=rng.choice(list(AnalysisScope)), likert=rng.random() < 0.5)
        self._start_analysis(project_id, options)

    def _vectorize(self) -> None:
        rng, project_id = self._rng, self._rng.choice(self._projects)
        self._start_vectorization(project_id, is_all=rng.random() < 0.5)

    def _start_vectorization(self, project_id: str, *, is_all: bool = False) -> None:
        self._start(lambda session: start_vectorization(session, project_id, is_all=is_all).plan)

    def _start_analysis(self, project_id: str, options: AnalysisOptions) -> None:
        self._start(lambda session: start_analysis(session, project_id, options).plan)

    def _start(self, start: Callable[[Session], ChunkRef]) -> None:
        def begin() -> ChunkRef:
            with transaction() as session:
                return start(session)

        publish([patiently(begin)])

    def _cancel(self) -> None:
        place, found = self._rng.random(), patiently(list_under_way)
        if not found:
            raise NotFoundError("no job is under way")
        job_id = found[int(place * len(found))]
        # Before it is asked for: the answer may be lost.
        self.cancelled.add(job_id)

        def cancel() -> None:
            with transaction() as session:
                self._note_interrupted(session)
                cancel_job(session, job_id)

        patiently(cancel)
        self.stay_cancelled.add(job_id)

    def _retry(self) -> None:
        place, found = self._rng.random(), sorted(self.stay_cancelled)
        if not found:
            raise NotFoundError("no job is cancelled")
        job_id = found[int(place * len(found))]
        self.stay_cancelled.discard(job_id)

        def retry() -> list[ChunkRef]:
            with transaction() as session:
                retry_job(session, job_id)
            return publish_next(job_id)

        publish(patiently(retry))

    def _delete(self) -> None:
        if not self.batches:
            raise NotFoundError("there is no batch")
        self._delete_batch(self._rng.choice(self.batches))

    def _delete_batch(self, batch: Batch) -> None:
        self.batches.remove(batch)

        def delete() -> list[str]:
            with transaction() as session:
                self._note_interrupted(session)
                job_ids = list(session.scalars(_OF_BATCH, {"name": batch.name}))
                for job_id in job_ids:
                    delete_job(session, job_id)
            return job_ids

        job_ids = patiently(delete)
        self.stay_cancelled.difference_update(job_ids)
        publish_removals(job_ids)

    def _note_interrupted(self, session: Session) -> None:
        self.interrupted.update({row.stage: row.chunks for row in session.execute(_HELD)})

    def _change_model(self) -> None:
        model = self._rng.choice(LANGUAGE_MODELS)

        def change() -> None:
            with transaction() as session:
                write_setting(session, "llm_model", model)

        patiently(change)
