"""The ledger: claims, fences, completions, and what a second of anything does."""

import time
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline import flow, ledger
from pipeline.ingest.submit import Submission
from pipeline.jobs import cancel_job, retry_job
from pipeline.jobviews import view_job
from pipeline.ledger import ChunkRef, ChunkResult, Claim, LeaseLostError, PlannedChunk
from pipeline.sweeper import sweep
from schemas.enums import Stage

CSV = "prompt\n" + "".join(f"write the story number {number}\n" for number in range(3))


@pytest.fixture
def plan(submit: Callable[..., Submission]) -> ChunkRef:
    return submit(CSV).plan


def _claim(session: Session, ref: ChunkRef, *, lease_seconds: float = 60) -> Claim:
    held = ledger.claim(session, ref, worker="test", lease_seconds=lease_seconds)
    assert held is not None
    session.commit()
    return held


def _chunk(session: Session, ref: ChunkRef) -> dict[str, object]:
    row = session.execute(
        text("SELECT * FROM work_chunks WHERE job_id = :job AND stage = :stage AND number = :number"),
        {"job": ref.job_id, "stage": ref.stage, "number": ref.number},
    )
    return dict(row.mappings().one())


def test_a_chunk_is_claimed_once(session: Session, plan: ChunkRef) -> None:
    _claim(session, plan)
    assert ledger.claim(session, plan, worker="other", lease_seconds=60) is None


def test_a_chunk_that_is_not_there_is_nothing_to_do(session: Session) -> None:
    assert ledger.claim(session, ChunkRef("gone", Stage.LOAD, 7), worker="test", lease_seconds=60) is None


def test_a_lease_that_ran_out_is_claimed_again_with_a_higher_fence(session: Session, plan: ChunkRef) -> None:
    first = _claim(session, plan, lease_seconds=-1)
    second = _claim(session, plan)
    assert second.fence == first.fence + 1


def test_a_completion_behind_a_later_claim_is_refused(session: Session, plan: ChunkRef) -> None:
    first = _claim(session, plan, lease_seconds=-1)
    _claim(session, plan)
    with pytest.raises(LeaseLostError):
        ledger.record_plan(session, first, [])
    session.rollback()
    assert _chunk(session, plan)["state"] == "LEASED"


def test_a_lease_that_was_taken_over_is_not_renewed(session: Session, plan: ChunkRef) -> None:
    first = _claim(session, plan, lease_seconds=-1)
    second = _claim(session, plan)
    assert not ledger.renew(session, first, lease_seconds=60)
    assert ledger.renew(session, second, lease_seconds=60)


def test_the_last_chunk_says_that_the_stage_is_over(session: Session, plan: ChunkRef) -> None:
    held = _claim(session, plan)
    ledger.record_plan(session, held, [PlannedChunk({}, 2), PlannedChunk({}, 3)])
    session.commit()
    tallies = []
    for number in (2, 1):
        chunk = _claim(session, ChunkRef(plan.job_id, plan.stage, number))
        tallies.append(ledger.complete(session, chunk, ChunkResult(done=chunk.record_count)))
        session.commit()
    assert [tally.is_over for tally in tallies] == [False, True]
    assert (tallies[1].done_count, tallies[1].total_count) == (5, 5)


def test_opening_a_stage_twice_leaves_one_plan(session: Session, plan: ChunkRef) -> None:
    ledger.open_stage(session, plan.job_id, plan.stage)
    assert session.scalar(text("SELECT count(*) FROM work_chunks")) == 1


def test_a_chunk_given_back_waits_and_keeps_its_attempts(session: Session, plan: ChunkRef) -> None:
    held = _claim(session, plan)
    assert ledger.release(session, held, delay=3600, error="the server is down", is_counted=False)
    session.commit()
    chunk = _chunk(session, plan)
    assert (chunk["state"], chunk["attempts"], chunk["error"]) == ("PENDING", 0, "the server is down")
    assert ledger.claim(session, plan, worker="test", lease_seconds=60) is None


def test_attempts_that_count_are_used_up(session: Session, plan: ChunkRef) -> None:
    for _ in range(ledger.MAX_ATTEMPTS):
        held = _claim(session, plan)
        ledger.release(session, held, delay=0, error="a fault", is_counted=True)
        session.commit()
    assert ledger.claim(session, plan, worker="test", lease_seconds=60) is None


def test_a_stopped_chunk_is_neither_claimed_nor_completed(session: Session, plan: ChunkRef) -> None:
    held = _claim(session, plan)
    ledger.stop_job(session, plan.job_id)
    session.commit()
    assert ledger.claim(session, plan, worker="test", lease_seconds=60) is None
    with pytest.raises(LeaseLostError):
        ledger.record_plan(session, held, [])


def test_chunks_are_published_in_order_and_once(session: Session, plan: ChunkRef) -> None:
    held = _claim(session, plan)
    ledger.record_plan(session, held, [PlannedChunk({}, 1)] * 5)
    numbers = [ref.number for ref in ledger.take_unpublished(session, plan.job_id, 3)]
    numbers += [ref.number for ref in ledger.take_unpublished(session, plan.job_id, 3)]
    assert numbers == [1, 2, 3, 4, 5]
    assert ledger.take_unpublished(session, plan.job_id, 3) == []


def _planned(session: Session, plan: ChunkRef, *counts: int) -> None:
    held = _claim(session, plan)
    flow.finish_plan(session, held, [PlannedChunk({"ids": []}, count) for count in counts])
    session.commit()


def test_a_part_of_a_chunk_is_settled_and_the_rest_stays_held(session: Session, plan: ChunkRef) -> None:
    _planned(session, plan, 3)
    held = _claim(session, ChunkRef(plan.job_id, plan.stage, 1))
    rest = ledger.split_off(
        session, held, ChunkResult(done=1, failed=1), settled_ids=["a", "b"], open_ids=["c"]
    )
    session.commit()
    part = _chunk(session, ChunkRef(plan.job_id, plan.stage, 2))
    assert (part["state"], part["done_count"], part["failed_count"]) == ("DONE", 1, 1)
    assert part["span"] == {"ids": ["a", "b"]}
    assert (rest.span, rest.record_count) == ({"ids": ["c"]}, 1)
    tally = ledger.complete(session, rest, ChunkResult(done=1))
    assert (tally.is_over, tally.done_count, tally.failed_count, tally.total_count) == (True, 2, 1, 3)


def test_a_part_is_not_settled_by_who_lost_the_lease(session: Session, plan: ChunkRef) -> None:
    _planned(session, plan, 2)
    chunk = ChunkRef(plan.job_id, plan.stage, 1)
    late = _claim(session, chunk, lease_seconds=-1)
    _claim(session, chunk)
    with pytest.raises(LeaseLostError):
        ledger.split_off(session, late, ChunkResult(done=1), settled_ids=["a"], open_ids=["b"])


def test_of_a_chunk_that_is_given_up_only_what_is_left_has_failed(session: Session, plan: ChunkRef) -> None:
    _planned(session, plan, 3)
    held = _claim(session, ChunkRef(plan.job_id, plan.stage, 1))
    result = ChunkResult(done=1, failed=1)
    flow.finish_part(session, held, result, settled_ids=["a", "b"], open_ids=["c"])
    # With the claim on the whole, as of a worker after an error, or of a sweeper that looked before.
    flow.fail_chunk(session, held, "a fault")
    stage = view_job(session, plan.job_id).stages[0]
    assert (stage.total, stage.done, stage.failed) == (3, 1, 2)


def test_a_planner_that_lost_the_lease_does_not_fail_the_job(session: Session, plan: ChunkRef) -> None:
    late = _claim(session, plan, lease_seconds=-1)
    _planned(session, plan, 1)
    with pytest.raises(LeaseLostError):
        flow.fail_chunk(session, late, "the worker died in each of 5 attempts")
    assert view_job(session, plan.job_id).status == "PROCESSING"


def test_a_worker_that_lost_the_lease_does_not_stop_the_job(session: Session, plan: ChunkRef) -> None:
    _planned(session, plan, 1, 1)
    first, second = (ChunkRef(plan.job_id, plan.stage, number) for number in (1, 2))
    late = _claim(session, first, lease_seconds=-1)
    held = _claim(session, first)
    flow.stop_job(session, late, "the key is refused that was replaced since")
    for chunk in (held, _claim(session, second)):
        flow.finish_chunk(session, chunk, ChunkResult(done=1))
    assert view_job(session, plan.job_id).status == "COMPLETED"


def test_a_stopping_job_begins_nothing_and_fails_when_the_last_chunk_ends(
    session: Session, plan: ChunkRef
) -> None:
    _planned(session, plan, 1, 1, 1, 1)
    first, second, third = (_claim(session, ChunkRef(plan.job_id, plan.stage, n)) for n in (1, 2, 3))
    flow.stop_job(session, first, "the key is refused")
    session.commit()
    assert ledger.claim(session, ChunkRef(plan.job_id, plan.stage, 4), worker="w", lease_seconds=9) is None
    flow.finish_chunk(session, second, ChunkResult(done=1))
    session.commit()
    assert view_job(session, plan.job_id).status == "PROCESSING"
    # Given back while the job stops: nobody is to take it up.
    flow.give_back(session, third, delay=0, error="busy", is_counted=False)
    session.commit()
    view = view_job(session, plan.job_id)
    assert (view.status, view.error, view.saved_count) == ("FAILED", "the key is refused", 1)
    retry_job(session, plan.job_id)
    session.commit()
    assert {_chunk(session, ChunkRef(plan.job_id, plan.stage, n))["state"] for n in (1, 3, 4)} == {"PENDING"}
    assert _claim(session, ChunkRef(plan.job_id, plan.stage, 4)).record_count == 1


def test_a_stopping_job_whose_last_worker_died_is_failed_by_the_sweeper(
    session: Session, plan: ChunkRef
) -> None:
    _planned(session, plan, 1, 1)
    first = _claim(session, ChunkRef(plan.job_id, plan.stage, 1))
    _claim(session, ChunkRef(plan.job_id, plan.stage, 2), lease_seconds=-1)
    dead = ledger.claim(session, ChunkRef(plan.job_id, plan.stage, 2), worker="w", lease_seconds=0.3)
    assert dead is not None
    flow.stop_job(session, first, "no credit")
    session.commit()
    assert view_job(session, plan.job_id).status == "PROCESSING"
    time.sleep(0.4)
    sweep()
    session.expire_all()
    assert view_job(session, plan.job_id).error == "no credit"


@pytest.mark.parametrize("is_sorting", [True, False])
def test_a_retry_goes_on_with_the_stage_that_the_job_had_come_to(
    session: Session, submit: Callable[..., Submission], *, is_sorting: bool
) -> None:
    load = submit(CSV, embed=True).plan
    vectorize, compare = (ChunkRef(load.job_id, stage, 0) for stage in (Stage.VECTORIZE, Stage.COMPARE))
    for plan, failed in ((load, 0), (vectorize, 1)):
        _planned(session, plan, 3)
        held = _claim(session, ChunkRef(load.job_id, plan.stage, 1))
        flow.finish_chunk(session, held, ChunkResult(done=3 - failed, failed=failed))
    cancel_job(session, load.job_id)
    if not is_sorting:
        # The plan for a job with many chunks, which finds the stages in the order of their beginning.
        for way in ("sort", "indexscan", "bitmapscan"):
            session.execute(text(f"SET LOCAL enable_{way} = off"))
    retry_job(session, load.job_id)
    session.commit()
    # Were the record that failed taken up, nothing would begin the comparison again after it.
    assert _chunk(session, ChunkRef(load.job_id, Stage.VECTORIZE, 1))["state"] == "DONE"
    _planned(session, compare)
    assert view_job(session, load.job_id).status == "COMPLETED"
