"""Tasks of the vectorize queue."""

from pipeline.ledger import PLAN, ChunkRef
from schemas.enums import Stage
from tasks.app import app
from tasks.work import work_on


@app.task(name="vectorize.plan")
def plan(job_id: str) -> None:
    """Split the stage into chunks and begin with the first of them."""
    work_on(ChunkRef(job_id, Stage.VECTORIZE, PLAN))


@app.task(name="vectorize.embed_chunk")
def embed_chunk(job_id: str, number: int) -> None:
    """Embed one batch of records and publish what comes next."""
    work_on(ChunkRef(job_id, Stage.VECTORIZE, number))


@app.task(name="vectorize.plan_compare")
def plan_compare(job_id: str) -> None:
    """Split the comparison of new tasks with earlier ones into chunks and begin with the first of them."""
    work_on(ChunkRef(job_id, Stage.COMPARE, PLAN))


@app.task(name="vectorize.compare_chunk")
def compare_chunk(job_id: str, number: int) -> None:
    """Compare the tasks of some people and publish what comes next."""
    work_on(ChunkRef(job_id, Stage.COMPARE, number))
