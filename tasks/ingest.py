"""Tasks of the ingest queue."""

from pipeline.ledger import PLAN, ChunkRef
from schemas.enums import Stage
from tasks.app import app
from tasks.work import work_on


@app.task(name="ingest.plan")
def plan(job_id: str) -> None:
    """Split the stage into chunks and begin with the first of them."""
    work_on(ChunkRef(job_id, Stage.LOAD, PLAN))


@app.task(name="ingest.load_chunk")
def load_chunk(job_id: str, number: int) -> None:
    """Load one chunk of a file and publish what comes next."""
    work_on(ChunkRef(job_id, Stage.LOAD, number))
