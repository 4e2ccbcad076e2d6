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

# Chunks with higher numbers come behind those of other jobs, so that a small job, which has none, does not
# wait for a large one. Redis gives out the lowest priority first, RabbitMQ the highest.
_LAST_URGENT_CHUNK = 4
_REDIS_PRIORITIES, _AMQP_PRIORITIES = (0, 9), (9, 0)

# RabbitMQ takes no message while it is short of memory or disk space, and says nothing: so long is waited
# for its confirm, each time that Celery tries.
_CONFIRM_SECONDS = 5.0

# A task's name and its arguments, and whether it may wait.
Message = tuple[str, list[str | int], bool]


def publish(refs: Iterable[ChunkRef]) -> None:
    """Send a message for each chunk, over one connection.

    A broker that is not there fails nobody: what is to be done is on the ledger, and the sweeper publishes
    it again.
    """
    _send(_message(ref) for ref in refs)


def publish_removals(job_ids: Iterable[str]) -> None:
    """Send a message for each deleted job whose records are to be removed; else as `publish`."""
    _send((REMOVAL_TASK, [job_id], False) for job_id in job_ids)


def _message(ref: ChunkRef) -> Message:
    plan, chunk = TASKS[ref.stage]
    if ref.number == PLAN:
        return plan, [ref.job_id], False
    return chunk, [ref.job_id, ref.number], ref.number > _LAST_URGENT_CHUNK


def _send(messages: Iterable[Message]) -> None:
    messages = list(messages)
    if not messages:
        return
    errors = _broker_errors()
    try:
        is_amqp = str(app.conf.broker_url).startswith("amqp")
        urgent, patient = _AMQP_PRIORITIES if is_amqp else _REDIS_PRIORITIES
        with app.producer_pool.acquire(block=True) as producer:
            try:
                for task, arguments, may_wait in messages:
                    app.send_task(
                        task,
                        args=arguments,
                        producer=producer,
                        priority=patient if may_wait else urgent,
                        confirm_timeout=_CONFIRM_SECONDS,
                    )
            except errors:
                # Dropped here, or else it is closed: a goodbye would wait for an answer without a limit.
                producer.connection.collect()
                raise
    except errors as error:
        log.warning("the broker took no message, the sweeper will try again: %s", error)


def _broker_errors() -> tuple[type[Exception], ...]:
    """List what the broker's client raises: besides what Celery has tried again, what it would not."""
    connection = app.connection_for_write()
    return (OperationalError, *connection.connection_errors, *connection.channel_errors)
