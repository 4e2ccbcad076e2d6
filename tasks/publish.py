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
    Stage.ANALYZE: ("analyze.plan", "analyze.assess_chunk"),
}


def publish(refs: Iterable[ChunkRef]) -> None:
    """Send a message for each chunk, over one connection.

    A broker that is not there fails nobody: what is to be done is on the ledger, and the sweeper publishes
    it again.
    """
    refs = list(refs)
    if not refs:
        return
    try:
        with app.producer_pool.acquire(block=True) as producer:
            for ref in refs:
                plan, chunk = TASKS[ref.stage]
                if ref.number == PLAN:
                    app.send_task(plan, args=[ref.job_id], producer=producer)
                else:
                    app.send_task(chunk, args=[ref.job_id, ref.number], producer=producer)
    except OperationalError as error:
        log.warning("the broker took no message, the sweeper will try again: %s", error)
