"""What a test of the ledger's model does in one step: the same thing to the ledger and to the model.

Which steps are taken is not known here (see `test_ledger_model`).
"""

from collections.abc import Sequence

from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy import text

from pipeline import ledger, sweeper
from pipeline.database import get_engine, transaction
from pipeline.ledger import ChunkRef
from pipeline.runner import publish_next
from pipeline.states import UNFINISHED
from schemas.enums import JobKind, Stage
from tests.pipeline import ledger_actors as actors
from tests.pipeline.ledger_actors import LEASE, Held
from tests.pipeline.ledger_model import PATIENCE, Model
from tests.pipeline.ledger_snapshot import find_faults, read_snapshot

_FORGET = text("DELETE FROM ingest_jobs; DELETE FROM analytics_jobs; DELETE FROM removals")
_PASS = text("""
    UPDATE work_chunks SET leased_until = leased_until - make_interval(secs => :seconds),
        not_before = not_before - make_interval(secs => :seconds),
        published_at = published_at - make_interval(secs => :seconds)
""")


class LedgerMachine(RuleBasedStateMachine):
    """The ledger, its model, and what is in whose hands."""

    def __init__(self) -> None:
        super().__init__()
        with get_engine().begin() as connection:
            connection.execute(_FORGET)
        self.model = Model()
        self.number = 0
        self.held: list[Held] = []
        # Claims as the sweeper saw them when it looked for chunks to give up.
        self.seen: list[Held] = []
        # Every message ever sent: any of them may arrive, again, at any time.
        self.sent: list[ChunkRef] = []
        self.last_sent: dict[ChunkRef, int] = {}
        self.retried: str | None = None
        self.before = self.model.snapshot()

    # What there is to choose from.

    def job_ids(self) -> list[str]:
        return list(self.model.jobs)

    def ingest_jobs(self) -> list[str]:
        return [job.id for job in self.model.jobs.values() if job.kind is JobKind.INGEST]

    def unfinished(self) -> list[str]:
        return [job.id for job in self.model.jobs.values() if job.status in UNFINISHED]

    def messages(self) -> list[ChunkRef]:
        return list(dict.fromkeys(self.sent))

    def seen_exhausted(self) -> list[Held]:
        return self.seen

    def free(self) -> list[ChunkRef]:
        return [ref for ref in self.messages() if self.model.is_free(ref)]

    def is_held(self, held: Held) -> bool:
        return self.model.is_held(held.ref, held.claim.fence)

    def plans(self) -> list[Held]:
        return [held for held in self.held if self.is_held(held) and held.is_plan]

    def chunks(self) -> list[Held]:
        return [held for held in self.held if self.is_held(held) and not held.is_plan]

    def large(self) -> list[Held]:
        """Chunks that may be settled in part: rows of a file and comparisons are all or nothing."""
        stages = {Stage.VECTORIZE, Stage.ANALYZE}
        return [held for held in self.chunks() if held.rest.record_count > 1 and held.ref.stage in stages]

    def alive(self) -> list[Held]:
        return self.plans() + self.chunks()

    def late(self) -> list[Held]:
        return [held for held in self.held if not self.is_held(held)]

    # What is done.

    def _submit(self, kind: JobKind, *, is_embedding: bool) -> None:
        if kind is JobKind.ANALYTICS and self.model.is_analyzing():
            return
        self.number += 1
        job_id = f"{kind}-{self.number}"
        with transaction() as session:
            actors.put_job(session, job_id, kind, is_embedding=is_embedding)
        self.model.submit(job_id, kind, is_embedding=is_embedding)

    def _publish(self, job_id: str, limit: int | None = None) -> list[ChunkRef]:
        refs = publish_next(job_id, limit)
        assert refs == self.model.take_unpublished(job_id, limit)
        return self._send(refs)

    def _send(self, refs: list[ChunkRef]) -> list[ChunkRef]:
        for ref in refs:
            sent = self.last_sent.get(ref, -PATIENCE)
            assert self.model.now - sent >= PATIENCE, f"{ref} was published twice within {PATIENCE} s"
            self.last_sent[ref] = self.model.now
        self.sent += refs
        return refs

    def _forget_publications(self, job_id: str, number: int | None = None) -> None:
        """A chunk that was given back or taken up again is published anew."""
        for ref in list(self.last_sent):
            if ref.job_id == job_id and number in {None, ref.number}:
                del self.last_sent[ref]

    def _claim(self, ref: ChunkRef, worker: str) -> Held | None:
        with transaction(is_durable=False) as session:
            claim = ledger.claim(session, ref, worker=worker, lease_seconds=LEASE)
        if not self.model.is_free(ref):
            assert claim is None, f"{ref} was not to be claimed"
            return None
        assert claim is not None, f"{ref} was to be claimed"
        chunk = self.model.claim(ref, worker, LEASE)
        found = (claim.fence, claim.attempts, claim.record_count)
        assert found == (chunk.fence, chunk.attempts, chunk.records)
        self.held.append(Held(claim, worker))
        return self.held[-1]

    def _finish_plan(self, held: Held, sizes: Sequence[int]) -> None:
        actors.finish(held, sizes=sizes)
        self.model.finish_plan(held.ref, sizes)

    def _finish_chunk(self, held: Held, bad: int = 0) -> None:
        result = actors.finish(held, bad=bad)
        skipped = sum(result.skipped.values())
        self.model.finish_chunk(held.ref, done=result.done, failed=result.failed, skipped=skipped)

    def _finish(self, held: Held, sizes: Sequence[int]) -> None:
        if held.is_plan:
            self._finish_plan(held, sizes)
        else:
            self._finish_chunk(held)

    def _work(self, ref: ChunkRef, sizes: Sequence[int]) -> None:
        held = self._claim(ref, "B")
        if held is None:
            return
        self._finish(held, sizes)
        self.check()

    def _sweep(self) -> list[ChunkRef]:
        refs = sweeper.sweep()
        assert sorted(map(str, refs)) == sorted(map(str, self.model.sweep()))
        return self._send(refs)

    def _pass(self, seconds: int) -> None:
        with get_engine().begin() as connection:
            connection.execute(_PASS, {"seconds": seconds})
        self.model.now += seconds

    def check(self) -> None:
        with get_engine().connect() as connection:
            found = read_snapshot(connection)
        faults = [*found.differences(self.model.snapshot()), *find_faults(self.before, found, self.retried)]
        assert not faults, "\n".join(faults)
        self.before, self.retried = found, None
