"""A job is cancelled at every moment of its life; a retry makes of it what would have become of it."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from pipeline.database import transaction
from pipeline.errors import ConflictError
from pipeline.jobs import cancel_job
from pipeline.runner import run_chunk
from schemas.enums import JobStatus, Stage
from tests.ai_server import AiServer
from tests.pipeline.races.lives import (
    RECORDS,
    Job,
    Lives,
    check_counts,
    check_rest,
    result_of,
    run,
    status_of,
    take_up,
    walk,
)

pytestmark = pytest.mark.usefixtures("no_surprise")


def cancel(job: Job) -> bool:
    """Cancel a job as a user does; False where it was completed before."""
    try:
        with transaction() as session:
            cancel_job(session, job.id)
    except ConflictError as error:
        if "is COMPLETED and cannot be cancelled" not in str(error):
            raise
        return False
    return True


# Each statement of a load, each transaction of the longer lives.
@pytest.mark.parametrize(
    ("stage", "at_statements", "step"),
    [(Stage.LOAD, True, 3), (Stage.VECTORIZE, False, 1), (Stage.ANALYZE, False, 1)],
)
def test_a_job_that_is_cancelled_at_any_moment_stays_so_until_a_retry_finishes_it(
    *, lives: Lives, use_ai_server: AiServer, stage: Stage, at_statements: bool, step: int
) -> None:
    begin = partial(lives.begin, stage)
    expected = result_of(run(begin()))
    refused: set[str] = set()

    def act(job: Job) -> None:
        if not cancel(job):
            refused.add(job.id)

    def check(job: Job) -> None:
        check_counts(job)
        check_rest(job)
        if job.id not in refused:
            assert status_of(job.id) == JobStatus.CANCELLED
            take_up(job)
        assert result_of(job) == expected

    moments = walk(begin, act, check, at_statements=at_statements, step=step)
    assert moments >= 12
    assert refused
    if stage is Stage.ANALYZE:
        # A round without, one with each moment, and the last: each record was paid for once in each.
        assert use_ai_server.seen.chats == RECORDS * (moments + 2)


@pytest.mark.parametrize("stage", [Stage.VECTORIZE, Stage.ANALYZE])
def test_a_worker_that_is_overtaken_by_a_cancellation_and_a_retry_changes_nothing_more(
    lives: Lives, stage: Stage
) -> None:
    begin = partial(lives.begin, stage)
    expected = result_of(run(begin()))

    def cancel_and_overtake(job: Job) -> None:
        if cancel(job):
            take_up(job)

    def check(job: Job) -> None:
        assert result_of(job) == expected
        check_counts(job)
        check_rest(job)

    assert walk(begin, cancel_and_overtake, check, step=3) >= 4


def test_of_a_cancellation_and_the_end_of_the_last_chunk_at_once_exactly_one_comes_first(
    lives: Lives,
) -> None:
    expected = result_of(run(lives.begin(Stage.LOAD)))
    for seed in range(12):
        job, delay = lives.begin(Stage.LOAD), random.Random(seed).uniform(0.0, 0.02)
        (first,) = run_chunk(job.refs[0])
        (last,) = run_chunk(first)
        job.refs.extend([first, last])
        start = threading.Barrier(2)

        def cancel_soon(job: Job = job, delay: float = delay, start: threading.Barrier = start) -> bool:
            start.wait()
            time.sleep(delay)
            return cancel(job)

        with ThreadPoolExecutor(1) as pool:
            cancellation = pool.submit(cancel_soon)
            start.wait()
            run_chunk(last)
            is_cancelled = cancellation.result()
        assert status_of(job.id) == (JobStatus.CANCELLED if is_cancelled else JobStatus.COMPLETED), seed
        check_counts(job)
        check_rest(job)
        if is_cancelled:
            take_up(job)
        assert result_of(job) == expected, seed
