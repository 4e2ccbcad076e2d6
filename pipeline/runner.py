"""Running one chunk: claim, work, and what to make of an error, which becomes an outcome here alone."""

import logging
import os
import random
import socket
from collections.abc import Callable, Mapping

from pipeline import flow, ledger
from pipeline.ai import limited_work, longest_work_seconds
from pipeline.analyze import assess_chunk, plan_analyze, start_due_analyses
from pipeline.database import one_line, transaction
from pipeline.errors import FatalError, PermanentError, TransientError
from pipeline.ingest.load import load_chunk
from pipeline.ingest.plan import plan_load
from pipeline.lease import LeaseKeeper
from pipeline.ledger import MAX_ATTEMPTS, PLAN, ChunkRef, Claim, LeaseLostError
from pipeline.settings import get_settings
from pipeline.similarity import compare_chunk, plan_compare
from pipeline.vectorize import plan_vectorize, vectorize_chunk
from schemas.enums import Stage

log = logging.getLogger(__name__)

# For each stage, how it is planned and how one of its chunks is worked on.
WORK: Mapping[Stage, tuple[Callable[[Claim], None], Callable[[Claim], None]]] = {
    Stage.LOAD: (plan_load, load_chunk),
    Stage.VECTORIZE: (plan_vectorize, vectorize_chunk),
    Stage.COMPARE: (plan_compare, compare_chunk),
    Stage.ANALYZE: (plan_analyze, assess_chunk),
}
# Their models may be paid for by the call.
_PAID = frozenset({Stage.VECTORIZE, Stage.ANALYZE})
_SHORTEST_DELAY_SECONDS, _LONGEST_DELAY_SECONDS = 0.5, 60.0


def run_chunk(ref: ChunkRef) -> list[ChunkRef]:
    """Work on a chunk if it is free, and say which chunks are to be published next.

    Whatever happens is on the ledger when this returns: done, given back with a delay, or given up.

    Raises:
        TransientError: the database could not be asked; the sweeper will publish the chunk again.
    """
    settings = get_settings()
    # A chunk whose claim a crash forgets is worked on twice: only where that costs nothing but a second.
    with transaction(is_durable=ref.stage in _PAID) as session:
        held = ledger.claim(session, ref, worker=_worker_name(), lease_seconds=settings.lease_seconds)
    if held is None:
        log.info("nothing to do for %s", ref)
        return []
    _work(held)
    return publish_next(ref.job_id)


def find_small(beside: ChunkRef) -> ChunkRef | None:
    """Find a small job's chunk that could be worked on in the middle of another one (`pipeline.courtesy`).

    Raises:
        TransientError: the database could not be asked.
    """
    with transaction() as session:
        return ledger.find_small(session, beside=beside, max_bytes=get_settings().chunk_bytes)


def publish_next(job_id: str, limit: int | None = None) -> list[ChunkRef]:
    """Take the next unpublished chunks of a job, and the analyses that its end makes due.

    Args:
        job_id: the job.
        limit: how many chunks; None for as many as keep its workers busy (`ledger.count_room`).
    """
    # Marks that a crash forgets the sweeper makes again; a message for what is forgotten finds nothing to do.
    with transaction(is_durable=False) as session:
        if limit is None:
            limit = ledger.count_room(session, job_id, most=get_settings().publish_window)
        refs = ledger.take_unpublished(session, job_id, limit)
        if not refs:
            started = start_due_analyses(session)
            refs = [ref for start in started for ref in ledger.take_unpublished(session, start.job_id, 1)]
    return refs


def _work(held: Claim) -> None:
    plan, work = WORK[held.ref.stage]
    try:
        lease = LeaseKeeper(held, lease_seconds=get_settings().lease_seconds)
        with lease, limited_work(longest_work_seconds()):
            (plan if held.ref.number == PLAN else work)(held)
    except LeaseLostError as error:
        log.warning("%s; what was done is rolled back", error)
    except TransientError as error:
        _give_back(held, error)
    except FatalError as error:
        _stop_job(held, str(error))
    except PermanentError as error:
        _give_up(held, str(error))
    except Exception as error:  # an error nobody foresaw: kept with the chunk, tried again, then given up
        log.exception("unexpected error in %s", held.ref)
        _after_unexpected(held, f"unexpected {type(error).__name__}: {one_line(error)}")


def _stop_job(held: Claim, reason: str) -> None:
    with transaction() as session:
        if flow.stop_job(session, held, reason):
            log.error("job %s fails: %s", held.ref.job_id, reason)
        else:
            log.warning("%s is not wanted any more, and so does not fail its job: %s", held.ref, reason)


def _give_back(held: Claim, error: TransientError) -> None:
    # A server that says "now" is asked again soon, and not at once, over and over.
    delay = (
        _delay(held.fence) if error.retry_after is None else max(error.retry_after, _SHORTEST_DELAY_SECONDS)
    )
    log.warning("%s is given back for %.1f s: %s", held.ref, delay, error)
    with transaction() as session:
        flow.give_back(session, held, delay=delay, error=str(error), is_counted=False)


def _after_unexpected(held: Claim, reason: str) -> None:
    if held.attempts >= MAX_ATTEMPTS:
        _give_up(held, f"{reason} (after {held.attempts} attempts)")
        return
    with transaction() as session:
        flow.give_back(session, held, delay=_delay(held.attempts), error=reason, is_counted=True)


def _give_up(held: Claim, reason: str) -> None:
    log.error("%s is given up: %s", held.ref, reason)
    try:
        with transaction() as session:
            flow.fail_chunk(session, held, reason)
    except LeaseLostError as lost:
        log.warning("%s", lost)


def _delay(attempt: int) -> float:
    longest = min(2.0 ** min(attempt, 10), _LONGEST_DELAY_SECONDS)
    return random.uniform(longest / 2, longest)  # noqa: S311 - jitter, no secret


def _worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
