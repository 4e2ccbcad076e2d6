"""Records and jobs that vanish while the later stages work on them: settled, counted, no deadlock."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import transaction
from pipeline.failures import list_failures
from pipeline.ingest.submit import Submission
from pipeline.jobviews import JobView, view_job
from pipeline.ledger import ChunkRef
from pipeline.removal import delete_job, remove_batches
from pipeline.runner import run_chunk
from schemas.enums import JobStatus, Stage
from tests.ai_server import AiServer, Behaviour

Submit = Callable[..., Submission]
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
def model(use_ai_server: AiServer, monkeypatch: pytest.MonkeyPatch) -> Behaviour:
    """A server whose model refuses some texts, and lets the test do something meanwhile; a call a chunk."""
    monkeypatch.setattr("pipeline.vectorize.plan._CALLS_A_CHUNK", 1)
    return use_ai_server.behaviour


def load_to_vectorize(submission: Submission) -> list[ChunkRef]:
    """Load a job; gives the chunks of its vectorize stage."""
    refs = [submission.plan]
    while refs and refs[0].stage is Stage.LOAD:
        refs.extend(run_chunk(refs.pop(0)))
    return run_chunk(refs[0])


def delete_records(condition: str) -> None:
    with transaction() as session:
        session.execute(text(f"DELETE FROM data_records WHERE {condition}"))  # noqa: S608 - of this module


def test_records_that_vanish_before_or_while_they_are_embedded_are_settled(
    submit: Submit, model: Behaviour
) -> None:
    submission = submit(csv(range(50)), embed=True)
    chunks = load_to_vectorize(submission)
    delete_records("content LIKE '%number 4_'")
    model.poison = {"number 3": 400}
    run_chunk(chunks[0])
    model.meanwhile = lambda: delete_records("content LIKE '%number 3_'")
    refs = chunks[1:]
    while refs:
        refs.extend(run_chunk(refs.pop(0)))
    stage = view(submission.job_id).stages[1]
    # Record 3 was refused and is still there; 30 to 39 were refused, too, but vanished meanwhile.
    assert (stage.done, stage.failed, stage.total, stage.is_over) == (49, 1, 50, True)
    assert view(submission.job_id).status == JobStatus.COMPLETED
    assert count("record_failures") == 1


@pytest.mark.usefixtures("model")
def test_a_given_up_batch_lists_only_records_that_are_still_there(
    session: Session, submit: Submit, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    submission = submit(csv(range(20)), embed=True)
    (ref,) = load_to_vectorize(submission)
    monkeypatch.setattr("pipeline.runner._delay", lambda _attempt: 0.0)
    monkeypatch.setattr("pipeline.vectorize.chunk.embed_texts", lambda *_: 1 / 0)
    for _ in range(4):
        run_chunk(ref)
    session.execute(text("DELETE FROM data_records WHERE content LIKE '%number 1_'"))
    with ThreadPoolExecutor(1) as pool:
        last_attempt = pool.submit(run_chunk, ref)
        wait(waits_for_lock, what="the listing at the records being deleted")
        session.commit()
        last_attempt.result()
    assert view(submission.job_id).stages[1].failed == 20
    assert count("record_failures") == 10


def test_deleting_a_job_that_lists_a_failure_at_this_moment_is_no_deadlock(
    submit: Submit,
    model: Behaviour,
    wait: Wait,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    submission = submit(csv(range(20)), embed=True)
    (ref,) = load_to_vectorize(submission)
    model.poison = {"number 7": 400}
    with ThreadPoolExecutor(1) as pool:
        deletions = []

        def _list_and_be_deleted(*arguments: object) -> int:
            listed = list_failures(*arguments)  # type: ignore[arg-type] # what it was called with
            deletions.append(pool.submit(delete, submission.job_id))
            wait(waits_for_lock, what="the deletion at the job's lock")
            return listed

        monkeypatch.setattr("pipeline.vectorize.chunk.list_failures", _list_and_be_deleted)
        with caplog.at_level(logging.WARNING):
            run_chunk(ref)
        assert deletions[0].result() == submission.job_id
    assert caplog.messages == []
    assert count("work_jobs") == 0


def test_a_batch_of_a_deleted_job_is_rolled_back_with_its_failures(
    submit: Submit, model: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    submission = submit(csv(range(20)), embed=True)
    (ref,) = load_to_vectorize(submission)
    model.poison = {"number 7": 400}
    model.meanwhile = lambda: delete(submission.job_id)
    with caplog.at_level(logging.WARNING):
        run_chunk(ref)
    assert len(caplog.messages) == 1
    assert "rolled back" in caplog.messages[0]
    assert remove_batches(submission.job_id).deleted == 20
