"""A chunk that kills whoever works on it is given up with its reason, and the rest of the job is done."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.jobs import retry_job
from pipeline.jobviews import StageProgress, view_job
from pipeline.ledger import MAX_ATTEMPTS
from pipeline.runner import publish_next
from schemas.enums import JobStatus
from tasks import publish
from tests.faults.installation import Installation, wait_for
from tests.faults.job import SAVED, Job, check_counts, check_nothing_is_left, submit

_HOLDER = text(
    "SELECT leased_by FROM work_chunks WHERE stage = :stage AND number = 2 AND state = 'LEASED' "
    "AND leased_until > now()"
)
# Ids of the second chunk's hundred rows that come again, of every seventh.
_REPEATED = 14
_STATE = text(
    "SELECT state, attempts, error, record_count FROM work_chunks WHERE stage = :stage AND number = 2"
)


def _kill_who_works_on(session: Session, stage: str) -> bool:
    """Kill the process that has the stage's second chunk; tells whether the chunk is given up."""
    session.rollback()
    holder = session.scalar(_HOLDER, {"stage": stage})
    if holder is not None:
        with suppress(ProcessLookupError):
            os.kill(int(holder.rpartition(":")[2]), signal.SIGKILL)
    row = session.execute(_STATE, {"stage": stage}).first()
    return row is not None and row.state == "FAILED"


def _be_slow(installation: Installation) -> None:
    """Let the load's second chunk take so long that it can be caught at it, until the end of the test."""
    with installation.connect() as connection:
        connection.execute(
            """
            CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_sleep(1);
                RETURN NEW;
            END $$;
            CREATE TRIGGER be_slow BEFORE INSERT ON data_records FOR EACH ROW
            WHEN (NEW.content = 'write the story number 150 now') EXECUTE FUNCTION be_slow();
            """
        )

    def be_quick() -> None:
        with installation.connect() as connection:
            connection.execute("DROP FUNCTION be_slow CASCADE")

    installation.at_end(be_quick)


def _await_the_end(session: Session, job: Job, stage: str) -> StageProgress:
    wait_for(lambda: _kill_who_works_on(session, stage), "the chunk is given up", seconds=100)
    wait_for(job.is_ended, "the end of the job", seconds=60)
    session.rollback()
    row = session.execute(_STATE, {"stage": stage}).one()
    assert row.attempts == MAX_ATTEMPTS
    assert row.error == f"the worker died in each of {MAX_ATTEMPTS} attempts"
    view = view_job(session, job.job_id)
    (counted,) = [found for found in view.stages if found.stage == stage]
    assert counted.failed == row.record_count > 0
    assert counted.settled == counted.total
    return counted


def test_a_load_chunk_that_kills_its_workers_fails_the_job_which_has_all_other_rows(
    installation: Installation, session: Session, guidelines: Path
) -> None:
    _be_slow(installation)
    job = submit(guidelines)
    _await_the_end(session, job, "load")
    view = view_job(session, job.job_id)
    # Where a row of the chunk is repeated further down, that row is the first one now.
    assert (view.status, view.saved_count) == (JobStatus.FAILED, SAVED - 100 + _REPEATED)
    assert "1 of the file's chunks (100 rows) could not be loaded: the worker died" in str(view.error)
    retry_job(session, job.job_id)
    session.commit()
    publish(publish_next(job.job_id))
    wait_for(job.is_ended, "the end of the job", seconds=60)
    session.rollback()
    check_counts(session, job)
    check_nothing_is_left(session)


def test_a_vectorize_chunk_that_kills_its_workers_costs_no_other_record_its_embedding(
    installation: Installation, session: Session, guidelines: Path
) -> None:
    installation.ai_server.behaviour.latency = 0.1
    job = submit(guidelines)
    counted = _await_the_end(session, job, "vectorize")
    assert counted.done == SAVED - counted.failed
    assert view_job(session, job.job_id).status is JobStatus.COMPLETED
    listed = session.execute(
        text("SELECT message, count(*) FROM record_failures WHERE stage = 'vectorize' GROUP BY message")
    ).all()
    assert [tuple(row) for row in listed] == [
        (f"the worker died in each of {MAX_ATTEMPTS} attempts", counted.failed)
    ]
    assert session.scalar(text("SELECT count(*) FROM alignments")) == SAVED
