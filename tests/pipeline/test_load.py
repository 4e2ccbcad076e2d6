"""The load stage on a real database, worked on in this process: rows, counters and status move together."""

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.errors import DuplicateError, EmptyFileError, InputError
from pipeline.flow import fail_job
from pipeline.ingest.submit import Submission
from pipeline.jobs import cancel_job, retry_job
from pipeline.jobviews import JobView, view_job
from pipeline.ledger import ChunkRef
from pipeline.removal import delete_job
from pipeline.runner import publish_next, run_chunk
from pipeline.storage import get_storage
from schemas.enums import JobKind, JobStatus, Stage

Submit = Callable[..., Submission]
RunAll = Callable[[Submission], int]

HEADER = "task_id,prompt,prompt_quality_rating,task_creator_email,created_at\n"


def rows(numbers: range) -> str:
    return HEADER + "".join(
        f't{number},"Write the story, number {number},\nin two lines",4,a@example.com,2026-03-01T10:00:00Z\n'
        for number in numbers
    )


def view(job_id: str) -> JobView:
    with transaction() as session:
        return view_job(session, job_id)


@pytest.mark.usefixtures("small_chunks")
def test_every_row_is_saved_and_counted(session: Session, submit: Submit, run_all: RunAll) -> None:
    submission = submit(rows(range(35)))
    assert run_all(submission) == 5  # a plan and four chunks
    job = view(submission.job_id)
    assert (job.status, job.total_records, job.saved_count, job.skipped_count) == ("COMPLETED", 35, 35, 0)
    assert session.scalar(text("SELECT count(*) FROM data_records")) == 35


def test_a_record_has_what_the_rules_say(session: Session, submit: Submit, run_all: RunAll) -> None:
    submission = submit(rows(range(1)))
    run_all(submission)
    record = session.execute(text("SELECT * FROM data_records")).mappings().one()
    assert record["content"] == "Write the story, number 0,\nin two lines"
    assert (record["type"], record["category"], record["source"]) == ("TASK", "TOP_10", "csv:batch.csv")
    assert record["metadata"]["task_id"] == "t0"
    assert record["createdByEmail"] == "a@example.com"
    assert str(record["createdAt"]) == "2026-03-01 10:00:00"
    assert (record["embedding"], record["ingestJobId"]) == ([], submission.job_id)


@pytest.mark.usefixtures("small_chunks")
def test_a_redelivered_chunk_adds_no_second_record(session: Session, submit: Submit, run_all: RunAll) -> None:
    submission = submit(rows(range(25)))
    run_all(submission)
    for number in range(4):
        assert run_chunk(ChunkRef(submission.job_id, Stage.LOAD, number)) == []
    assert session.scalar(text("SELECT count(*) FROM data_records")) == 25
    assert view(submission.job_id).saved_count == 25


@pytest.mark.usefixtures("small_chunks")
def test_equal_identities_are_kept_once_within_and_between_chunks(submit: Submit, run_all: RunAll) -> None:
    submission = submit(rows(range(20)) + rows(range(12)).removeprefix(HEADER))
    run_all(submission)
    job = view(submission.job_id)
    assert (job.total_records, job.saved_count) == (32, 20)
    assert job.skipped_details == {"Duplicate ID": 12}


def test_the_same_bytes_again_are_refused_and_name_the_job(submit: Submit) -> None:
    first = submit(rows(range(3)))
    with pytest.raises(DuplicateError, match=first.job_id) as caught:
        submit(rows(range(3)))
    assert caught.value.job_id == first.job_id


def test_of_the_same_bytes_submitted_at_once_one_submission_is_taken(submit: Submit) -> None:
    start = threading.Barrier(6)

    def _submit(_: int) -> tuple[str, str]:
        start.wait()
        try:
            return "taken", submit(rows(range(3))).job_id
        except DuplicateError as error:
            return "refused", str(error.job_id)

    with ThreadPoolExecutor(6) as pool:
        answers = sorted(pool.map(_submit, range(6)))
    assert [answer for answer, _ in answers] == ["refused"] * 5 + ["taken"]
    assert len({job_id for _, job_id in answers}) == 1


@pytest.mark.parametrize("fate", ["cancelled", "failed", "deleted"])
def test_a_job_that_came_to_nothing_does_not_stand_in_the_way_of_the_same_bytes(
    submit: Submit, fate: str
) -> None:
    first = submit(rows(range(3)))
    with transaction() as opened:
        if fate == "cancelled":
            cancel_job(opened, first.job_id)
        elif fate == "failed":
            fail_job(opened, JobKind.INGEST, first.job_id, "a fault")
        else:
            delete_job(opened, first.job_id)
    assert submit(rows(range(3))).job_id != first.job_id


def test_a_forced_second_load_saves_nothing_that_has_an_identity(submit: Submit, run_all: RunAll) -> None:
    run_all(submit(rows(range(5))))
    second = submit(rows(range(5)), force=True)
    run_all(second)
    job = view(second.job_id)
    assert (job.saved_count, job.skipped_details) == (0, {"Duplicate ID": 5})


def test_a_task_and_a_feedback_of_one_id_are_two_records(submit: Submit, run_all: RunAll) -> None:
    submission = submit("id,type,content\n1,task,the first of them all\n1,feedback,the second of them all\n")
    run_all(submission)
    assert view(submission.job_id).saved_count == 2


def test_a_deleted_record_frees_its_identity(session: Session, submit: Submit, run_all: RunAll) -> None:
    run_all(submit(rows(range(2))))
    session.execute(text("DELETE FROM data_records"))
    session.commit()
    second = submit(rows(range(2)), force=True)
    run_all(second)
    assert view(second.job_id).saved_count == 2


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("seed", range(3))
def test_jobs_with_the_same_identities_at_once_keep_each_record_once(
    session: Session, submit: Submit, run_all: RunAll, seed: int
) -> None:
    chance = random.Random(seed)
    lines = rows(range(200)).removeprefix(HEADER).split("Z\n")[:-1]
    jobs = []
    for name in "abcd":
        # Each in an order of its own, and each with some of its identities twice.
        shuffled = chance.sample(lines, 150) + chance.sample(lines, 60)
        chance.shuffle(shuffled)
        jobs.append(submit(HEADER + "Z\n".join(shuffled) + "Z\n", name=f"{name}.csv"))
    threads = [threading.Thread(target=run_all, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    views = [view(job.job_id) for job in jobs]
    assert [job.status for job in views] == ["COMPLETED"] * 4
    assert all(job.saved_count + job.skipped_count == job.total_records == 210 for job in views)
    stored = list(session.scalars(text("SELECT metadata->>'task_id' FROM data_records")))
    assert len(stored) == len(set(stored)) == sum(job.saved_count for job in views)
    assert session.scalar(text("SELECT count(*) FROM record_identities")) == len(stored)


def test_keywords_keep_what_they_name_and_a_filtered_row_claims_no_identity(
    submit: Submit, run_all: RunAll
) -> None:
    first = submit("id,prompt\n1,about whales and ships\n2,about mountains only\n", keywords=("WHALE",))
    run_all(first)
    assert view(first.job_id).skipped_details == {"Keyword Mismatch": 1}
    second = submit("id,prompt\n2,about mountains again\n")
    run_all(second)
    assert view(second.job_id).saved_count == 1


def test_a_file_without_a_data_record_is_refused_and_not_kept(session: Session, submit: Submit) -> None:
    with pytest.raises(EmptyFileError):
        submit(HEADER)
    assert session.scalar(text("SELECT count(*) FROM uploads")) == 0


def test_a_mapping_to_a_column_that_is_not_there_is_refused_at_once(submit: Submit) -> None:
    with pytest.raises(InputError, match="answer"):
        submit(rows(range(1)), mapping={"content": "answer"})


def test_an_unclosed_quote_fails_the_job_before_any_row_is_stored(
    session: Session, submit: Submit, run_all: RunAll
) -> None:
    submission = submit(rows(range(3)) + 't9,"never closed\n')
    run_all(submission)
    job = view(submission.job_id)
    assert job.status == JobStatus.FAILED
    assert job.error is not None
    assert "line 8" in job.error
    assert session.scalar(text("SELECT count(*) FROM data_records")) == 0


@pytest.mark.usefixtures("small_chunks")
def test_a_cancelled_job_loads_no_further_chunk_and_a_retry_finishes_it(
    session: Session, submit: Submit
) -> None:
    submission = submit(rows(range(30)))
    first = run_chunk(submission.plan)
    run_chunk(first[0])
    with transaction() as opened:
        cancel_job(opened, submission.job_id)
    assert run_chunk(first[1]) == []
    assert (view(submission.job_id).status, view(submission.job_id).saved_count) == ("CANCELLED", 10)
    with transaction() as opened:
        retry_job(opened, submission.job_id)
    for ref in publish_next(submission.job_id, 10):
        run_chunk(ref)
    assert (view(submission.job_id).status, view(submission.job_id).saved_count) == ("COMPLETED", 30)
    assert session.scalar(text("SELECT count(*) FROM data_records")) == 30


@pytest.mark.usefixtures("small_chunks")
def test_a_retry_takes_up_unfinished_chunks_alone(session: Session, submit: Submit) -> None:
    submission = submit(rows(range(50)))
    chunks = run_chunk(submission.plan)
    for ref in (chunks[0], chunks[2]):
        run_chunk(ref)
    finished = text("SELECT number, fence, started_at, ended_at FROM work_chunks WHERE state = 'DONE'")
    before = set(session.execute(finished))
    session.commit()
    with transaction() as opened:
        cancel_job(opened, submission.job_id)
    with transaction() as opened:
        retry_job(opened, submission.job_id)
    taken_up = publish_next(submission.job_id, 10)
    assert [ref.number for ref in taken_up] == [2, 4, 5]
    for ref in [*chunks, *taken_up]:
        run_chunk(ref)
    assert before < set(session.execute(finished))
    assert {row.number for row in before} == {0, 1, 3}
    assert view(submission.job_id).saved_count == 50


def test_an_upload_that_is_gone_fails_the_job_and_says_so(
    session: Session, submit: Submit, run_all: RunAll
) -> None:
    submission = submit(rows(range(3)))
    get_storage().delete(str(session.scalar(text("SELECT storage_key FROM uploads"))))
    run_all(submission)
    assert view(submission.job_id).status == JobStatus.FAILED
    assert "no longer in storage" in str(view(submission.job_id).error)


@pytest.mark.usefixtures("small_chunks")
def test_a_chunk_that_never_works_fails_the_job_and_loses_no_other_row(
    session: Session, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = submit(rows(range(30)))
    chunks = run_chunk(submission.plan)
    session.execute(text("UPDATE work_chunks SET span = '{}' WHERE number = 2"))
    session.commit()
    monkeypatch.setattr("pipeline.runner._delay", lambda _attempt: 0.0)
    for ref in chunks:
        run_chunk(ref)
    for _ in range(5):
        run_chunk(chunks[1])
    job = view(submission.job_id)
    assert (job.status, job.saved_count) == (JobStatus.FAILED, 20)
    assert "10 rows" in str(job.error)
