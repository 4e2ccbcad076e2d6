"""The job that everything is done to, and what must be true of it afterwards."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.ingest.submit import submit_csv
from pipeline.jobviews import view_job
from pipeline.projects import ensure_project, set_guidelines
from schemas.enums import JobStatus, RecordType
from schemas.options import IngestOptions
from tasks import publish
from tests.ai_server import AiServer, vector_of
from tests.faults.guarded import wait_for
from tests.faults.installation import Installation

_ROWS = 1_200
# Of the rows so many have no text, and so many repeat an earlier one's id.
_EMPTY, _DOUBLE = 24, 36
SAVED = _ROWS - _EMPTY - _DOUBLE
_PEOPLE = 40
# Texts a call, records an analyze chunk, calls a vectorize chunk: as the settings of the suite make it.
BATCH, CALLS_A_CHUNK = 20, 16
# Loaded, embedded, compared and analyzed.
_STEPS = 4


@dataclass(frozen=True)
class Job:
    """A batch on its way through all stages."""

    project_id: str
    job_id: str

    def is_ended(self) -> bool:
        """Tell whether the batch and the analysis that follows it have ended."""
        with transaction() as session:
            if not view_job(session, self.job_id).is_ended:
                return False
            analysis = self.analysis_id(session)
            if analysis is None:
                return view_job(session, self.job_id).status is not JobStatus.COMPLETED
            return view_job(session, analysis).is_ended

    def analysis_id(self, session: Session) -> str | None:
        """Give the job of the analysis; None before it was started."""
        found: str | None = session.scalar(
            text('SELECT id FROM analytics_jobs WHERE "projectId" = :id'), {"id": self.project_id}
        )
        return found

    def share(self) -> float:
        """Say how far everything has come, from 0 to 1."""
        with transaction() as session:
            done = session.scalar(text("SELECT coalesce(sum(done_count + failed_count), 0) FROM work_stages"))
        return float(done) / (_STEPS * SAVED)

    def wait_until(self, share: float) -> None:
        """Wait until so much is done."""
        wait_for(lambda: self.share() >= share or self.is_ended(), f"{share:.0%} of the work is done")


def submit(guidelines: Path) -> Job:
    """Submit the batch: to be loaded, embedded, compared and analyzed by the guidelines."""
    with transaction() as session:
        project = ensure_project(session, "faults")
        set_guidelines(session, project.id, guidelines.read_bytes(), file_name=guidelines.name)
    lines = [f"t{number},write the story number {number} now,{_person(number)}" for number in range(SAVED)]
    lines += [f'e{number},"",{_person(number)}' for number in range(_EMPTY)]
    lines += [f"t{7 * number},write another story {number},{_person(number)}" for number in range(_DOUBLE)]
    submission = submit_csv(
        project.id,
        io.BytesIO("\n".join(["task_id,prompt,created_by_email", *lines, ""]).encode()),
        file_name="batch.csv",
        options=IngestOptions(record_type=RecordType.TASK, embed=True, analyze=True),
    )
    publish([submission.plan])
    return Job(project.id, submission.job_id)


def _person(number: int) -> str:
    return f"p{number % _PEOPLE}@example.com"


def check_everything(session: Session, job: Job) -> None:
    """See that nothing was lost, nothing doubled and nothing is left."""
    session.rollback()
    check_counts(session, job)
    check_records(session, job)
    check_nothing_is_left(session)


def check_counts(session: Session, job: Job) -> None:
    """See that both jobs are complete and every row is accounted for."""
    batch = view_job(session, job.job_id)
    assert batch.status is JobStatus.COMPLETED, batch
    assert (batch.total_records, batch.saved_count, batch.skipped_count) == (_ROWS, SAVED, _EMPTY + _DOUBLE)
    analysis_id = job.analysis_id(session)
    assert analysis_id is not None
    analysis = view_job(session, analysis_id)
    assert analysis.status is JobStatus.COMPLETED, analysis
    assert analysis.processed_count == SAVED
    for stage in (*batch.stages, *analysis.stages):
        expected = _ROWS if stage.stage == "load" else SAVED
        assert (stage.done + stage.failed + (expected - SAVED), stage.failed) == (expected, 0), stage


def check_records(session: Session, job: Job) -> None:
    """See that every record is there once, with its own embedding and one analysis."""
    rows = session.execute(text("SELECT content, embedding FROM data_records")).all()
    assert sorted(row.content for row in rows) == sorted(
        f"write the story number {number} now" for number in range(SAVED)
    )
    for content, embedding in rows:
        assert np.array_equal(np.array(embedding), vector_of(content, 16).astype(float))
    identities = session.execute(
        text("SELECT count(*), count(DISTINCT record_id) FROM record_identities")
    ).one()
    assert tuple(identities) == (SAVED, SAVED)
    analyses = session.execute(text("SELECT count(*), count(DISTINCT record_id) FROM alignments")).one()
    assert tuple(analyses) == (SAVED, SAVED), job


def check_nothing_is_left(session: Session) -> None:
    """See that no chunk is open, no lease held and no transaction forgotten."""
    states = session.execute(text("SELECT state, count(*) FROM work_chunks GROUP BY state")).all()
    assert {row.state for row in states} == {"DONE"}, states
    leases = "SELECT count(*) FROM work_chunks WHERE leased_until IS NOT NULL"
    assert session.scalar(text(leases)) == 0
    forgotten = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND state LIKE 'idle in transaction%' AND state_change < now() - interval '2 s' "
        "AND pid <> pg_backend_pid()"
    )
    assert session.scalar(text(forgotten)) == 0


def check_messages(installation: Installation) -> None:
    """See that the queues become empty; what a killed worker held comes back later, to find nothing to do."""
    wait_for(lambda: not any(installation.broker.queued().values()), "the queues are empty", seconds=20)


def count_repeats(server: AiServer) -> tuple[int, int]:
    """Count the texts that were embedded again, and the questions that were asked again."""
    texts = {content: times for content, times in server.seen.texts.items() if content.startswith("write")}
    return sum(texts.values()) - len(texts), server.seen.chats - SAVED
