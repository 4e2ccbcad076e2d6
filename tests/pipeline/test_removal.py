"""Deleting a job: gone at once for everybody, its records batch by batch, whoever else is at work."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline import flow
from pipeline.analyze import start_analysis
from pipeline.database import transaction
from pipeline.errors import InputError, NotFoundError
from pipeline.ingest.submit import Submission
from pipeline.jobs import cancel_job
from pipeline.jobviews import JobView, view_job
from pipeline.ledger import LeaseLostError
from pipeline.projects import ProjectRef, set_guidelines
from pipeline.removal import delete_job, remove_batches, take_lost_removals
from pipeline.runner import publish_next, run_chunk
from pipeline.sample import write_guidelines_pdf
from pipeline.storage import get_storage
from pipeline.upkeep import tidy
from schemas.enums import ChunkState, JobStatus, Stage
from schemas.options import AnalysisOptions

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]
Wait = Callable[..., None]

pytestmark = pytest.mark.usefixtures("small_chunks")


def csv(numbers: range) -> str:
    return "id,prompt\n" + "".join(f"{number},write the story number {number}\n" for number in numbers)


def view(job_id: str) -> JobView:
    with transaction() as session:
        return view_job(session, job_id)


def delete(job_id: str) -> str:
    with transaction() as session:
        return delete_job(session, job_id)


def count(table: str) -> int:
    with transaction() as session:
        return int(session.scalar(text(f"SELECT count(*) FROM {table}")) or 0)  # noqa: S608 - a name of ours


def waits_for_lock() -> bool:
    question = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')"
    with transaction() as session:
        return bool(session.scalar(text(question)))


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.removal._BATCH", 7)


def test_a_deleted_job_is_gone_at_once_and_its_records_with_all_that_hangs_on_them(
    session: Session, submit: Submit, run_all: RunAll
) -> None:
    submission = submit(csv(range(30)))
    run_all(submission)
    session.execute(
        text(
            'INSERT INTO likert_scores (id, "recordId", "userId", "realismScore", "qualityScore")'
            " SELECT id, id, 'u', 1, 7 FROM data_records"
        )
    )
    session.execute(
        text(
            "INSERT INTO alignments (record_id, score, report, provider, llm_model, prompt_version,"
            " guidelines_sha256) SELECT id, 1, '{}', 'p', 'm', 'v', 'g' FROM data_records"
        )
    )
    session.execute(
        text("INSERT INTO record_failures SELECT :job, 'vectorize', id, 'CODE', 'message' FROM data_records"),
        {"job": submission.job_id},
    )
    session.commit()
    assert delete(submission.job_id) == submission.job_id
    with pytest.raises(NotFoundError):
        view(submission.job_id)
    assert [count(table) for table in ("work_jobs", "work_stages", "work_chunks")] == [0, 0, 0]
    progress = remove_batches(submission.job_id)
    assert (progress.deleted, progress.is_over) == (30, True)
    tables = ("data_records", "record_identities", "likert_scores", "alignments", "record_failures")
    assert [count(table) for table in (*tables, "removals", "uploads")] == [0] * 7


def test_the_upload_goes_with_its_job_and_others_stay(submit: Submit, run_all: RunAll) -> None:
    first, second = submit(csv(range(10))), submit(csv(range(10, 30)))
    run_all(first)
    run_all(second)
    with transaction() as session:
        keys = dict(
            session.execute(
                text("SELECT job_id, storage_key FROM work_jobs JOIN uploads ON id = upload_id")
            ).all()
        )
    delete(first.job_id)
    remove_batches(first.job_id)
    names = {file.key for file in get_storage().list_files()}
    assert keys[first.job_id] not in names
    assert keys[second.job_id] in names
    assert (count("data_records"), count("record_identities"), count("uploads")) == (20, 20, 1)
    assert view(second.job_id).saved_count == 20


def test_a_chunk_under_way_is_rolled_back(submit: Submit, monkeypatch: pytest.MonkeyPatch) -> None:
    submission = submit(csv(range(30)))
    chunks = run_chunk(submission.plan)
    run_chunk(chunks[0])
    finish, told = flow.finish_chunk, []

    def _finish_too_late(*arguments: object) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(delete, submission.job_id).result()
        try:
            finish(*arguments)  # type: ignore[arg-type] # what it was called with
        except LeaseLostError as error:
            told.append(str(error))
            raise

    monkeypatch.setattr(flow, "finish_chunk", _finish_too_late)
    assert run_chunk(chunks[1]) == []
    assert told
    assert "is gone" in told[0]
    assert count("data_records") == 10
    assert remove_batches(submission.job_id).deleted == 10
    assert run_chunk(chunks[2]) == []
    assert (count("data_records"), count("record_identities")) == (0, 0)


@pytest.mark.usefixtures("small_batches")
def test_a_removal_that_was_killed_halfway_is_finished_by_upkeep(submit: Submit, run_all: RunAll) -> None:
    submission = submit(csv(range(30)))
    run_all(submission)
    delete(submission.job_id)
    halfway = remove_batches(submission.job_id, seconds=-1.0)
    assert (halfway.deleted, halfway.is_over) == (7, False)
    assert (count("data_records"), count("removals"), count("uploads")) == (23, 1, 1)
    assert tidy(datetime.now(UTC)).records == 23
    assert [count(table) for table in ("data_records", "record_identities", "removals", "uploads")] == [0] * 4


def test_an_upload_that_a_killed_removal_left_behind_is_removed_by_upkeep(
    submit: Submit, run_all: RunAll, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = submit(csv(range(10)))
    run_all(submission)
    delete(submission.job_id)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.removal.remove_unused_uploads", lambda **_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            remove_batches(submission.job_id)
    assert (count("removals"), count("uploads")) == (0, 1)
    assert tidy(datetime.now(UTC)).unused_uploads == 1
    assert count("uploads") == 0


@pytest.mark.usefixtures("small_batches")
def test_removers_at_once_remove_each_record_once(submit: Submit, run_all: RunAll) -> None:
    submission = submit(csv(range(200)))
    run_all(submission)
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(delete, [submission.job_id] * 3)) == {submission.job_id}
        removed = list(pool.map(remove_batches, [submission.job_id] * 3))
    assert sum(progress.deleted for progress in removed) == 200
    assert all(progress.is_over for progress in removed)
    assert (count("data_records"), count("removals"), count("uploads")) == (0, 0, 0)


def test_a_record_that_somebody_holds_holds_up_no_other(
    session: Session, submit: Submit, run_all: RunAll, wait: Wait
) -> None:
    submission = submit(csv(range(30)))
    run_all(submission)
    session.execute(text("SELECT id FROM data_records ORDER BY id LIMIT 1 FOR UPDATE"))
    delete(submission.job_id)
    with ThreadPoolExecutor(1) as pool:
        removal = pool.submit(remove_batches, submission.job_id)
        wait(lambda: count("data_records") == 1, what="the removal of the others")
        assert not removal.done()
        session.commit()
        assert removal.result().deleted == 30
    assert (count("data_records"), count("removals")) == (0, 0)


@pytest.mark.usefixtures("small_batches")
def test_other_jobs_load_while_records_are_removed(submit: Submit, run_all: RunAll) -> None:
    first = submit(csv(range(200)))
    run_all(first)
    delete(first.job_id)
    others = [submit(csv(range(start, start + 100))) for start in (1000, 2000)]
    with ThreadPoolExecutor(3) as pool:
        removal = pool.submit(remove_batches, first.job_id)
        assert list(pool.map(run_all, others)) == [11, 11]
        assert removal.result().deleted == 200
    assert [view(job.job_id).saved_count for job in others] == [100, 100]
    assert (count("data_records"), count("record_identities")) == (200, 200)


def test_the_same_rows_again_are_no_duplicates_of_records_that_are_going(
    session: Session, submit: Submit, run_all: RunAll
) -> None:
    first = submit(csv(range(30)))
    run_all(first)
    delete(first.job_id)
    second = submit(csv(range(30)))  # the same bytes: a deleted job does not stand in the way
    run_all(second)
    waiting = "SELECT DISTINCT state, error, attempts FROM work_chunks WHERE number > 0"
    assert [tuple(row) for row in session.execute(text(waiting))] == [
        (ChunkState.PENDING, "the records of a deleted job are still being removed", 0)
    ]
    session.commit()
    remove_batches(first.job_id)
    session.execute(text("UPDATE work_chunks SET not_before = NULL"))
    session.commit()
    for ref in publish_next(second.job_id, 10):
        run_chunk(ref)
    job = view(second.job_id)
    assert (job.status, job.saved_count, job.skipped_count) == (JobStatus.COMPLETED, 30, 0)


def test_a_job_that_is_not_deleted_loses_nothing(submit: Submit, run_all: RunAll) -> None:
    submission = submit(csv(range(10)))
    run_all(submission)
    assert remove_batches(submission.job_id).deleted == 0
    assert count("data_records") == 10


def test_a_removal_that_nobody_works_on_is_taken_up_once(session: Session, submit: Submit) -> None:
    submission = submit(csv(range(10)))
    delete(submission.job_id)
    assert take_lost_removals(session) == []
    session.execute(text("UPDATE removals SET touched_at = now() - interval '61 s'"))
    assert take_lost_removals(session) == [submission.job_id]
    assert take_lost_removals(session) == []


@pytest.fixture
def guided(session: Session, project: ProjectRef, tmp_path: Path) -> ProjectRef:
    write_guidelines_pdf(tmp_path / "g.pdf")
    set_guidelines(session, project.id, (tmp_path / "g.pdf").read_bytes(), file_name="g.pdf")
    session.commit()
    return project


@pytest.mark.usefixtures("guided")
def test_an_analysis_that_follows_a_deleted_job_stays_and_its_counts_add_up(
    session: Session, submit: Submit, run_all: RunAll
) -> None:
    submit_other = submit(csv(range(100, 110)))
    run_all(submit_other)
    submission = submit(csv(range(50)), analyze=True)
    refs = [submission.plan]
    while refs and refs[0].stage is Stage.LOAD:
        refs.extend(run_chunk(refs.pop(0)))
    follower = refs[0].job_id
    chunks = run_chunk(refs[0])
    run_chunk(chunks[0])
    delete(submission.job_id)
    assert remove_batches(submission.job_id).deleted == 50
    for ref in chunks[1:]:
        run_chunk(ref)
    job = view(follower)
    assert (job.status, job.processed_count, job.total_records) == (JobStatus.COMPLETED, 60, 60)
    follows = text("SELECT follows_job_id FROM work_jobs WHERE job_id = :job")
    assert session.execute(follows, {"job": follower}).scalar_one() is None
    assert count("alignments") == count("data_records") == 10


def test_an_analysis_is_not_deleted(session: Session, guided: ProjectRef) -> None:
    start = start_analysis(session, guided.id, AnalysisOptions())
    session.commit()
    with pytest.raises(InputError, match="is an analysis"):
        delete(start.job_id)
    assert view(start.job_id).status == JobStatus.PENDING


def test_a_deletion_and_a_cancellation_at_once_leave_no_job(submit: Submit, wait: Wait) -> None:
    submission = submit(csv(range(10)))
    with ThreadPoolExecutor(1) as pool:
        with transaction() as session:
            delete_job(session, submission.job_id)
            cancelled = pool.submit(_cancel, submission.job_id)
            wait(waits_for_lock, what="the cancellation at the job's lock")
        with pytest.raises(NotFoundError, match="was deleted"):
            cancelled.result()
    assert count("ingest_jobs") == 0


def _cancel(job_id: str) -> None:
    with transaction() as session:
        cancel_job(session, job_id)
