"""Publishing chunks. A message is a hint that carries ids only; the ledger knows the rest."""

import logging
from collections.abc import Iterable

from kombu.exceptions import OperationalError

from pipeline.ledger import PLAN, ChunkRef
from schemas.enums import Stage
from tasks.app import app

log = logging.getLogger(__name__)

# The plan's task and the chunk's task of each stage.
TASKS = {
    Stage.LOAD: ("ingest.plan", "ingest.load_chunk"),
    Stage.VECTORIZE: ("vectorize.plan", "vectorize.embed_chunk"),
    Stage.COMPARE: ("vectorize.plan_compare", "vectorize.compare_chunk"),
    Stage.ANALYZE: ("analyze.plan", "analyze.assess_chunk"),
}
REMOVAL_TASK = "schedule.remove_job"

# A task's name and its arguments.
Message = tuple[str, list[str | int]]


def publish(refs: Iterable[ChunkRef]) -> None:
    """Send a message for each chunk, over one connection.

    A broker that is not there fails nobody: what is to be done is on the ledger, and the sweeper publishes
    it again.
    """
    _send(_message(ref) for ref in refs)


def publish_removals(job_ids: Iterable[str]) -> None:
    """Send a message for each deleted job whose records are to be removed; else as `publish`."""
    _send((REMOVAL_TASK, [job_id]) for job_id in job_ids)


def _message(ref: ChunkRef) -> Message:
    plan, chunk = TASKS[ref.stage]
    return (plan, [ref.job_id]) if ref.number == PLAN else (chunk, [ref.job_id, ref.number])


def _send(messages: Iterable[Message]) -> None:
    messages = list(messages)
    if not messages:
        return
    try:
        with app.producer_pool.acquire(block=True) as producer:
            for task, arguments in messages:
                app.send_task(task, args=arguments, producer=producer)
    except OperationalError as error:
        log.warning("the broker took no message, the sweeper will try again: %s", error)
