"""Who acts on the ledger in the test of its model: workers with claims, which end their work as stages do.

Nothing is worked on: how many records came through is said by the test. What should come of it is known to
`ledger_model` alone.
"""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from pipeline import flow, ledger
from pipeline.database import transaction
from pipeline.ledger import PLAN, ChunkRef, ChunkResult, Claim, PlannedChunk
from schemas.enums import JobKind, RecordType, SkipReason, Stage
from schemas.options import AnalysisOptions, IngestOptions
from schemas.own import WorkJob
from schemas.reference import AnalyticsJob, IngestJob
from tests.pipeline.ledger_model import TICK

LEASE = 4 * TICK


class Held:
    """A claim in somebody's hands; `rest` is what is left of it after a part was settled."""

    def __init__(self, claim: Claim, worker: str) -> None:
        self.claim, self.rest, self.worker = claim, claim, worker

    def __repr__(self) -> str:
        return f"<{self.worker}'s claim {self.claim.fence} on {self.claim.ref}>"

    @property
    def ref(self) -> ChunkRef:
        return self.claim.ref

    @property
    def is_plan(self) -> bool:
        return self.ref.number == PLAN


def put_job(session: Session, job_id: str, kind: JobKind, *, is_embedding: bool) -> None:
    """Put a job on the ledger as a submission does, by a name that stays the same when steps are repeated."""
    if kind is JobKind.INGEST:
        session.add(IngestJob(id=job_id, project_id="project", type=RecordType.TASK))
        options = IngestOptions(record_type=RecordType.TASK, embed=is_embedding).model_dump(mode="json")
        job = WorkJob(job_id=job_id, ingest_job_id=job_id, upload_id="upload", options=options)
    else:
        session.add(AnalyticsJob(id=job_id, project_id="project"))
        options = AnalysisOptions().model_dump(mode="json")
        job = WorkJob(job_id=job_id, analytics_job_id=job_id, options=options)
    session.flush()
    session.add(job)
    session.flush()
    ledger.open_stage(session, job_id, Stage.LOAD if kind is JobKind.INGEST else Stage.ANALYZE)


# What a worker does at the end of its work, as the stages and the runner do it.


def finish(held: Held, *, sizes: Sequence[int] = (), bad: int = 0) -> ChunkResult:
    count = held.rest.record_count
    bad = min(bad, count)
    result = ChunkResult(done=count)
    if held.ref.stage is Stage.LOAD:
        result = ChunkResult(done=count - bad, skipped={SkipReason.EMPTY_CONTENT: bad} if bad else {})
    elif held.ref.stage is not Stage.COMPARE:
        result = ChunkResult(done=count - bad, failed=bad)
    with transaction() as session:
        if held.is_plan:
            chunks = [PlannedChunk({"ids": [f"r{place}" for place in range(size)]}, size) for size in sizes]
            flow.finish_plan(session, held.claim, chunks)
        else:
            flow.finish_chunk(session, held.rest, result)
    return result


def finish_part(held: Held, *, bad: int = 0) -> ChunkResult:
    ids, bad = list(held.rest.span.get("ids", ())), min(bad, 1)
    result = ChunkResult(done=1 - bad, failed=bad)
    with transaction() as session:
        flow.lock_running(session, held.rest)
        rest = flow.finish_part(session, held.rest, result, settled_ids=ids[:1], open_ids=ids[1:])
    held.rest = rest
    return result


def give_up(held: Held) -> None:
    with transaction() as session:
        flow.fail_chunk(session, held.claim, "it cannot be done")


def give_back(held: Held, *, delay: int, is_counted: bool) -> None:
    with transaction() as session:
        flow.give_back(session, held.claim, delay=delay, error="not now", is_counted=is_counted)


def renew(held: Held) -> bool:
    with transaction() as session:
        return ledger.renew(session, held.claim, lease_seconds=LEASE)


def stop(held: Held) -> None:
    with transaction() as session:
        flow.stop_job(session, held.claim, "the key is refused")
