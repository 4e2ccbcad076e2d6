"""The sweeper: lost messages, dead workers, chained analyses; and that it does not flood the queue."""

from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline import flow, ledger
from pipeline.database import transaction
from pipeline.ingest.submit import Submission
from pipeline.jobviews import view_job
from pipeline.ledger import MAX_ATTEMPTS, ChunkRef
from pipeline.runner import publish_next, run_chunk
from pipeline.sweeper import sweep
from schemas.enums import Stage

CSV = "prompt\n" + "".join(f"write the story number {number}\n" for number in range(30))
Submit = Callable[..., Submission]


@pytest.fixture
def submission(submit: Submit) -> Submission:
    return submit(CSV)


def _age(session: Session, seconds: int) -> None:
    session.execute(
        text("UPDATE work_chunks SET published_at = published_at - make_interval(secs => :seconds)"),
        {"seconds": seconds},
    )
    session.commit()


def test_a_submission_whose_message_was_never_sent_is_published(submission: Submission) -> None:
    assert sweep() == [submission.plan]


@pytest.mark.usefixtures("submission")
def test_what_was_published_just_now_is_left_alone() -> None:
    sweep()
    assert sweep() == []


def test_a_lost_message_is_sent_again_and_each_time_waits_twice_as_long(
    session: Session, submission: Submission
) -> None:
    sweep()
    _age(session, 16)
    assert sweep() == [submission.plan]
    _age(session, 16)
    assert sweep() == []
    _age(session, 16)
    assert sweep() == [submission.plan]


def test_a_chunk_whose_worker_died_is_published_and_can_be_claimed(
    session: Session, submission: Submission
) -> None:
    session.execute(
        text(
            "UPDATE work_chunks SET state = 'LEASED', attempts = 1, leased_until = now() - interval '1 s',"
            " published_at = now() - interval '1 min'"
        )
    )
    session.commit()
    assert sweep() == [submission.plan]
    assert run_chunk(submission.plan)


def test_a_chunk_that_an_old_message_brought_to_a_worker_that_died_is_published(
    session: Session, submission: Submission
) -> None:
    sweep()
    with transaction() as opened:
        held = ledger.claim(opened, submission.plan, worker="first", lease_seconds=60)
        assert held is not None
        flow.give_back(opened, held, delay=0, error="busy", is_counted=False)
    with transaction() as opened:
        assert ledger.claim(opened, submission.plan, worker="second", lease_seconds=60)
    session.execute(text("UPDATE work_chunks SET leased_until = now() - interval '1 s'"))
    session.commit()
    assert sweep() == [submission.plan]
    assert sweep() == []


def test_a_chunk_that_kills_every_worker_is_given_up_with_the_reason(
    session: Session, submission: Submission
) -> None:
    session.execute(
        text(
            "UPDATE work_chunks SET state = 'LEASED', attempts = :most, leased_until = now() - interval '1 s'"
        ),
        {"most": MAX_ATTEMPTS},
    )
    session.commit()
    assert sweep() == []
    with transaction() as opened:
        view = view_job(opened, submission.job_id)
    assert view.status == "FAILED"
    assert "the worker died" in str(view.error)


@pytest.mark.usefixtures("small_chunks")
def test_a_job_has_no_more_than_a_window_of_chunks_on_the_queue(
    session: Session, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPSPIPE_PUBLISH_WINDOW", "2")
    submission = submit(CSV)
    assert [ref.number for ref in run_chunk(submission.plan)] == [1, 2]
    assert sweep() == []
    # The message of chunk 3 gets lost when its worker dies between commit and publication.
    session.execute(text("UPDATE work_chunks SET state = 'DONE' WHERE number = 1"))
    session.commit()
    assert sweep() == [ChunkRef(submission.job_id, Stage.LOAD, 3)]


@pytest.mark.usefixtures("small_chunks")
def test_one_chunk_waits_for_each_that_is_worked_on(session: Session, submit: Submit) -> None:
    submission = submit("prompt\n" + "".join(f"write the story {number}\n" for number in range(140)))
    published = [ref.number for ref in run_chunk(submission.plan)]
    assert published == [1, 2, 3, 4]
    for worked_on, more in (
        ([1, 2, 3, 4], [5, 6, 7, 8]),
        ([1, 2, 3, 4, 5, 6], [9, 10, 11, 12]),
        ([9], [13, 14]),
    ):
        session.execute(
            text(
                "UPDATE work_chunks SET state = 'LEASED', leased_until = now() + interval '1 min'"
                " WHERE stage = 'load' AND number = ANY(:numbers)"
            ),
            {"numbers": worked_on},
        )
        session.commit()
        assert [ref.number for ref in publish_next(submission.job_id)] == more


def test_nothing_is_swept_of_a_job_that_has_ended(session: Session, submission: Submission) -> None:
    run_chunk(submission.plan)
    run_chunk(ChunkRef(submission.job_id, Stage.LOAD, 1))
    _age(session, 3600)
    assert sweep() == []
