"""A job, or the project with everything in it, is deleted at every moment of the work on it."""

from functools import partial

import pytest
from sqlalchemy import text

from pipeline.database import transaction
from pipeline.embeddings import forget_gone_records
from pipeline.jobviews import view_job
from pipeline.removal import delete_job, remove_batches
from pipeline.runner import publish_next
from pipeline.storage import get_storage
from schemas.enums import JobStatus, Stage
from tests.pipeline.races.lives import (
    RECORDS,
    TABLES,
    Job,
    Lives,
    check_rest,
    number_of,
    remove_files,
    run,
    walk,
)

pytestmark = pytest.mark.usefixtures("no_surprise")


def delete(job: Job) -> None:
    with transaction() as session:
        delete_job(session, job.loaded_by)


def delete_project(job: Job) -> None:
    """Delete a project as any client of the database may."""
    with transaction() as session:
        session.execute(text("DELETE FROM projects WHERE id = :id"), {"id": job.project_id})


def check_nothing_left(*but: str) -> None:
    # What an embedding was made of goes with upkeep.
    forget_gone_records()
    assert [table for table in TABLES if table not in but and number_of(table)] == []


@pytest.mark.parametrize("stage", [Stage.LOAD, Stage.VECTORIZE])
def test_a_job_that_is_deleted_at_any_moment_leaves_nothing_behind(lives: Lives, stage: Stage) -> None:
    def check(job: Job) -> None:
        check_rest(job)
        assert number_of("ingest_jobs") == number_of("work_jobs") == number_of("work_chunks") == 0
        remove_batches(job.id)
        check_nothing_left("embedding_spaces")
        assert list(get_storage().list_files()) == []

    assert walk(partial(lives.begin, stage), delete, check) >= 10


def test_records_that_are_deleted_at_any_moment_of_their_analysis_leave_its_counts_in_order(
    lives: Lives,
) -> None:
    def delete_records(job: Job) -> None:
        delete(job)
        # Records that the work holds at this moment are left for the end.
        remove_batches(job.loaded_by, seconds=-1.0)

    def check(job: Job) -> None:
        check_rest(job)
        remove_batches(job.loaded_by)
        with transaction() as session:
            view = view_job(session, job.id)
        assert view.status == JobStatus.COMPLETED
        assert view.processed_count == view.total_records == view.stages[0].done
        assert view.total_records in {0, RECORDS}
        check_nothing_left("analytics_jobs", "work_jobs", "work_stages", "work_chunks", "ai_usage")

    assert walk(partial(lives.begin, Stage.ANALYZE), delete_records, check) >= 10


def check_project_is_gone(job: Job) -> None:
    check_rest(job)
    check_nothing_left()
    remove_files()
    assert list(get_storage().list_files()) == []


# At statements, too: a deletion that waits for work that waits for the deletion would be a deadlock.
@pytest.mark.parametrize(("stage", "step"), [(Stage.LOAD, 4), (Stage.VECTORIZE, 5), (Stage.ANALYZE, 5)])
def test_a_project_that_is_deleted_at_any_moment_takes_everything_along(
    lives: Lives, stage: Stage, step: int
) -> None:
    begin = partial(lives.begin, stage)
    assert walk(begin, delete_project, check_project_is_gone, at_statements=True, step=step) >= 10


def test_a_project_that_is_deleted_while_an_analysis_is_started_for_it_takes_that_along(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin() -> Job:
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.runner.start_due_analyses", lambda _session: [])
            return run(lives.begin(Stage.LOAD, analyze=True))

    def start(job: Job) -> None:
        job.refs.extend(publish_next(job.id, 1))

    moments = walk(begin, delete_project, check_project_is_gone, work=start, at_statements=True)
    assert moments >= 10
    assert number_of("analytics_jobs") == 1  # of the last one, which nobody came to delete
