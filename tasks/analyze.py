"""Tasks of the analyze queue."""

from pipeline.ledger import PLAN, ChunkRef
from schemas.enums import Stage
from tasks.app import app
from tasks.work import work_on


@app.task(name="analyze.plan")
def plan(job_id: str) -> None:
    """Split the stage into chunks and begin with the first of them."""
    work_on(ChunkRef(job_id, Stage.ANALYZE, PLAN))


@app.task(name="analyze.assess_chunk")
def assess_chunk(job_id: str, number: int) -> None:
    """Assess one batch of records and publish what comes next."""
    work_on(ChunkRef(job_id, Stage.ANALYZE, number))
