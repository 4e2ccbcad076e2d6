"""Two users at one job at once, and workers whose claims are older than its retry."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline import ledger, runner, sweeper
from pipeline.database import transaction
from pipeline.errors import ConflictError, FatalError, NotFoundError, PermanentError
from pipeline.ingest.plan import plan_load
from pipeline.jobs import cancel_job, retry_job
from pipeline.ledger import ChunkRef, Claim
from pipeline.removal import delete_job, remove_batches
from pipeline.runner import publish_next, run_chunk
from schemas.enums import JobStatus, Stage
from tests.pipeline.races.lives import (
    Job,
    Lives,
    check_counts,
    check_rest,
    everything,
    number_of,
    result_of,
    run,
    status_of,
    take_up,
)
from tests.pipeline.races.moments import number_waiting

Wait = Callable[..., None]

ACTS: Mapping[str, Callable[[Session, str], str]] = {
    "cancel": cancel_job,
    "retry": retry_job,
    "delete": delete_job,
}
DONE = "done"
# The status before, who comes first to the job's lock and who second, what they are told, the status after.
PAIRS = [
    ("CANCELLED", "retry", "retry", (DONE, "only failed and cancelled ones are retried"), "PROCESSING"),
    ("CANCELLED", "retry", "cancel", (DONE, DONE), "CANCELLED"),
    ("CANCELLED", "cancel", "retry", ("is CANCELLED and cannot be cancelled", DONE), "PROCESSING"),
    ("CANCELLED", "retry", "delete", (DONE, DONE), None),
    ("CANCELLED", "delete", "retry", (DONE, "was deleted at this moment"), None),
    ("PROCESSING", "cancel", "cancel", (DONE, "is CANCELLED and cannot be cancelled"), "CANCELLED"),
    ("PROCESSING", "cancel", "retry", (DONE, DONE), "PROCESSING"),
    ("PROCESSING", "retry", "cancel", ("only failed and cancelled ones are retried", DONE), "CANCELLED"),
    ("PROCESSING", "delete", "cancel", (DONE, "was deleted at this moment"), None),
]


def do(name: str, job: Job) -> str:
    """Do something as a user; gives what the user is told."""
    try:
        with transaction() as session:
            ACTS[name](session, job.id)
    except (ConflictError, NotFoundError) as error:
        return str(error)
    return DONE


def half_loaded(lives: Lives) -> Job:
    """Begin a job and load the first of its two chunks."""
    job = lives.begin(Stage.LOAD)
    job.refs.extend(run_chunk(job.refs[0]))
    run_chunk(job.refs[1])
    return job


@pytest.mark.parametrize(("before", "first", "second", "answers", "after"), PAIRS)
def test_of_two_users_at_a_job_at_once_the_second_finds_what_the_first_has_made_of_it(
    *,
    lives: Lives,
    wait: Wait,
    before: str,
    first: str,
    second: str,
    answers: tuple[str, str],
    after: str | None,
) -> None:
    expected = result_of(run(lives.begin(Stage.LOAD)))
    job = half_loaded(lives)
    if before == JobStatus.CANCELLED:
        assert do("cancel", job) == DONE
    with ThreadPoolExecutor(2) as pool:
        with transaction() as session:
            # Both have to wait, and come in the order in which they arrived.
            session.execute(text("SELECT FROM ingest_jobs WHERE id = :id FOR UPDATE"), {"id": job.id})
            told = []
            for name in (first, second):
                told.append(pool.submit(do, name, job))
                wait(lambda: number_waiting() == len(told), what="the wait for the lock")
        for answer, each in zip(answers, told, strict=True):
            assert answer in each.result()
    if after is None:
        check_rest(job)
        remove_batches(job.id)
        assert [number_of(table) for table in ("ingest_jobs", "data_records", "work_chunks")] == [0] * 3
        return
    assert status_of(job.id) == after
    check_counts(job)
    if after == JobStatus.CANCELLED:
        check_rest(job)
        take_up(job)
    else:
        for ref in publish_next(job.id, 10):
            run_chunk(ref)
    assert result_of(job) == expected


# What a worker comes to; None: to an end.
OUTCOMES = [
    None,
    FatalError("the key is refused"),
    PermanentError("this will never work"),
    ValueError("nobody foresaw"),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("is_taken", [False, True])
def test_a_worker_with_a_claim_from_before_the_cancellation_has_no_say_after_the_retry(
    *,
    lives: Lives,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Exception | None,
    number: int,
    is_taken: bool,
) -> None:
    expected = result_of(run(lives.begin(Stage.LOAD)))
    job = lives.begin(Stage.LOAD)
    if number:
        run_chunk(job.refs[0])
    ref = ChunkRef(job.id, Stage.LOAD, number)
    stale = _claim(ref)
    assert (do("cancel", job), do("retry", job)) == (DONE, DONE)
    taken = _claim(ref) if is_taken else None
    before = everything()
    with monkeypatch.context() as patch:
        if outcome is not None:
            patch.setitem(runner.WORK, Stage.LOAD, (_raise(outcome), _raise(outcome)))  # type: ignore[arg-type] # a dict
        runner._work(stale)
    assert everything() == before
    if taken is not None:
        runner._work(taken)
    job.refs.extend(publish_next(job.id, 10))
    assert result_of(run(job)) == expected


def _claim(ref: ChunkRef) -> Claim:
    with transaction() as session:
        held = ledger.claim(session, ref, worker="w", lease_seconds=60)
    assert held is not None
    return held


def _raise(error: Exception) -> Callable[[Claim], None]:
    def work(_held: Claim) -> None:
        raise error

    return work


@pytest.mark.usefixtures("no_surprise")
def test_a_plan_that_its_worker_ends_after_all_is_not_given_up_by_the_sweeper(
    lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = result_of(run(lives.begin(Stage.LOAD)))
    job = lives.begin(Stage.LOAD)
    held = _claim(job.refs[0])
    with transaction() as session:
        session.execute(text("UPDATE work_chunks SET attempts = 5, leased_until = now() - interval '1 s'"))
    find = sweeper._exhausted

    def find_and_be_late(session: Session) -> list[Claim]:
        found = find(session)
        assert [each.ref for each in found] == job.refs
        with ThreadPoolExecutor(1) as pool:
            pool.submit(plan_load, held).result()
        return found

    monkeypatch.setattr(sweeper, "_exhausted", find_and_be_late)
    sweeper.give_up_exhausted()
    assert status_of(job.id) == JobStatus.PROCESSING
    job.refs.extend(publish_next(job.id, 10))
    assert result_of(run(job)) == expected
