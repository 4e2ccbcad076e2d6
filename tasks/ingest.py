"""Tasks of the ingest queue."""

from pipeline.ledger import PLAN, ChunkRef
from pipeline.runner import run_chunk
from schemas.enums import Stage
from tasks.app import app
from tasks.publish import publish


@app.task(name="ingest.plan")
def plan(job_id: str) -> None:
    """Split the stage into chunks and publish the first of them."""
    publish(run_chunk(ChunkRef(job_id, Stage.LOAD, PLAN)))


@app.task(name="ingest.load_chunk")
def load_chunk(job_id: str, number: int) -> None:
    """Load one chunk of a file and publish what comes next."""
    publish(run_chunk(ChunkRef(job_id, Stage.LOAD, number)))
