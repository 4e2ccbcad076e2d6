"""The ledger against a model of it: workers, a sweeper and people do what they do, in any order.

Each step is one transaction of the real code on the real database, and the same step of `ledger_model`. After
it the whole ledger is as the model says, and breaks no rule of `ledger_snapshot`. Some workers come back late
with claims that somebody else has had since; messages are lost, doubled and late; the sweeper acts on what it
saw a while ago. At the end nothing goes wrong any more, and every job comes to an end.

Steps follow one another: what two transactions do to each other while both are open is not tried here.

A fault is printed as the shortest list of steps that shows it. To look for rarer ones, try more by hand:

    LEDGER_MODEL_EXAMPLES=3000 python -m pytest tests/pipeline/test_ledger_model.py --timeout=0
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline import jobs, sweeper
from pipeline.database import transaction
from pipeline.errors import ConflictError, NotFoundError
from pipeline.ledger import MAX_ATTEMPTS, PLAN, ChunkRef, LeaseLostError
from pipeline.projects import ProjectRef
from pipeline.removal import delete_job
from pipeline.settings import get_settings
from pipeline.states import UNFINISHED
from schemas.enums import JobKind, JobStatus
from schemas.own import Upload
from tests.pipeline import ledger_actors as actors
from tests.pipeline.ledger_actors import LEASE, Held
from tests.pipeline.ledger_machine import LedgerMachine
from tests.pipeline.ledger_model import PATIENCE, TICK, WINDOW

EXAMPLES = int(os.environ.get("LEDGER_MODEL_EXAMPLES", "60"))
STEPS = 40
MOST_JOBS = 3
# Longer than any lease, delay or patience.
AGES = 40 * TICK

_DO_NOT_SORT = text(
    "SET LOCAL enable_sort = off; SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off"
)


def _one_of(choices: str) -> st.SearchStrategy:
    """Draw one of those that the machine names at this step."""
    return st.runner().flatmap(lambda machine: st.sampled_from(getattr(machine, choices)()))


def _if_any(choices: str) -> Callable:
    return precondition(lambda machine: bool(getattr(machine, choices)()))


OUTCOMES = ["stop the job", "give back", "finish", "give up", "die"]
# How many records each chunk of a plan holds.
SIZES = st.sampled_from([(2, 1), (1, 3, 2), (3, 3), (2,), (1, 1, 1, 1), ()])


class Ledger(LedgerMachine):
    """The ledger, its model, and everybody who may touch it."""

    # People.

    @initialize(kind=st.sampled_from(JobKind), is_embedding=st.booleans())
    def submit_first(self, kind: JobKind, is_embedding: bool) -> None:  # noqa: FBT001 - drawn
        self._submit(kind, is_embedding=is_embedding)

    @precondition(lambda self: self.number < MOST_JOBS)
    @rule(kind=st.sampled_from(JobKind), is_embedding=st.booleans())
    def submit(self, kind: JobKind, is_embedding: bool) -> None:  # noqa: FBT001 - drawn
        self._submit(kind, is_embedding=is_embedding)

    @_if_any("job_ids")
    @rule(job_id=_one_of("job_ids"))
    def cancel(self, job_id: str) -> None:
        if self.model.jobs[job_id].status not in UNFINISHED:
            with pytest.raises(ConflictError), transaction() as session:
                jobs.cancel_job(session, job_id)
            return
        with transaction() as session:
            jobs.cancel_job(session, job_id)
        self.model.jobs[job_id].end(JobStatus.CANCELLED)

    @_if_any("job_ids")
    @rule(job_id=_one_of("job_ids"), is_sorting=st.booleans())
    def retry(self, job_id: str, is_sorting: bool) -> None:  # noqa: FBT001 - drawn
        if not self.model.can_be_retried(job_id):
            with pytest.raises(ConflictError), transaction() as session:
                jobs.retry_job(session, job_id)
            return
        with transaction() as session:
            if not is_sorting:
                # Another plan, another order of rows: nothing may depend on one that was not asked for.
                session.execute(_DO_NOT_SORT)
            jobs.retry_job(session, job_id)
        self.model.retry(job_id)
        self._forget_publications(job_id)
        self.retried = job_id

    @_if_any("ingest_jobs")
    @rule(job_id=_one_of("ingest_jobs"))
    def delete(self, job_id: str) -> None:
        for _ in range(2):
            with transaction() as session:
                delete_job(session, job_id)
        del self.model.jobs[job_id]
        for ask in (jobs.cancel_job, jobs.retry_job):
            with pytest.raises(NotFoundError), transaction() as session:
                ask(session, job_id)

    # Messages.

    @_if_any("job_ids")
    @rule(job_id=_one_of("job_ids"), limit=st.sampled_from([None, 1, 2]))
    def publish(self, job_id: str, limit: int | None) -> None:
        self._publish(job_id, limit)

    # Workers.

    @_if_any("messages")
    @rule(ref=_one_of("messages"), worker=st.sampled_from("ABC"))
    def deliver(self, ref: ChunkRef, worker: str) -> None:
        self._claim(ref, worker)

    @_if_any("free")
    @rule(ref=_one_of("free"), worker=st.sampled_from("ABC"))
    def deliver_what_is_free(self, ref: ChunkRef, worker: str) -> None:
        assert self._claim(ref, worker) is not None

    @_if_any("plans")
    @rule(held=_one_of("plans"), sizes=SIZES)
    def finish_plan(self, held: Held, sizes: Sequence[int]) -> None:
        self._finish_plan(held, sizes)

    @_if_any("chunks")
    @rule(held=_one_of("chunks"), bad=st.integers(0, 3))
    def finish_chunk(self, held: Held, bad: int) -> None:
        self._finish_chunk(held, bad)

    @_if_any("large")
    @rule(held=_one_of("large"), bad=st.integers(0, 2))
    def finish_part(self, held: Held, bad: int) -> None:
        result = actors.finish_part(held, bad=bad)
        self.model.finish_part(held.ref, done=result.done, failed=result.failed)
        assert held.rest.record_count == self.model.chunk(held.ref).records

    @_if_any("alive")
    @rule(held=_one_of("alive"))
    def give_up(self, held: Held) -> None:
        actors.give_up(held)
        self.model.fail_chunk(held.ref)

    @_if_any("alive")
    @rule(held=_one_of("alive"), delay=st.sampled_from([0, TICK, 4 * TICK]), is_fault=st.booleans())
    def give_back(self, held: Held, delay: int, is_fault: bool) -> None:  # noqa: FBT001 - drawn
        # After a fault in its last attempt a chunk is given up; waiting for a service uses up none.
        is_counted = is_fault and held.claim.attempts < MAX_ATTEMPTS
        actors.give_back(held, delay=delay, is_counted=is_counted)
        self.model.give_back(held.ref, delay=delay, is_counted=is_counted)
        self._forget_publications(held.ref.job_id, held.ref.number)

    @_if_any("alive")
    @rule(held=_one_of("alive"))
    def renew(self, held: Held) -> None:
        assert actors.renew(held)
        self.model.chunk(held.ref).leased_until = self.model.now + LEASE

    @_if_any("alive")
    @rule(held=_one_of("alive"))
    def stop_job(self, held: Held) -> None:
        actors.stop(held)
        self.model.stop(held.ref)

    @_if_any("late")
    @rule(held=_one_of("late"), outcome=st.sampled_from(["finish", "finish part", "give up"]))
    def end_too_late(self, held: Held, outcome: str) -> None:
        """Whoever lost the lease changes nothing, whatever became of the work."""
        ways = {"finish": actors.finish, "finish part": actors.finish_part, "give up": actors.give_up}
        with pytest.raises(LeaseLostError):
            ways[outcome](held)

    @_if_any("late")
    @rule(held=_one_of("late"), outcome=st.sampled_from(["give back", "renew", "stop"]))
    def fail_too_late(self, held: Held, outcome: str) -> None:
        if outcome == "renew":
            assert not actors.renew(held)
        elif outcome == "stop":
            actors.stop(held)
        else:
            actors.give_back(held, delay=0, is_counted=False)

    @_if_any("free")
    @rule(ref=_one_of("free"))
    def kill_every_worker(self, ref: ChunkRef) -> None:
        """Let each further attempt end with a dead worker, whose lease runs out."""
        while self.model.is_free(ref):
            self._claim(ref, "A")
            self._pass(LEASE)

    @_if_any("unfinished")
    @rule(job_id=_one_of("unfinished"), count=st.integers(1, 4), sizes=SIZES)
    def work_well(self, job_id: str, count: int, sizes: Sequence[int]) -> None:
        """Work on some chunks of a job without a fault, so that jobs come to their later stages."""
        for _ in range(count):
            self._publish(job_id)
            self.check()
            for ref in [ref for ref in self.free() if ref.job_id == job_id][:1]:
                self._work(ref, sizes)

    @_if_any("unfinished")
    @rule(
        job_id=_one_of("unfinished"),
        outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=4),
        is_all=st.booleans(),
    )
    def work_in_parallel(self, job_id: str, outcomes: list[str], is_all: bool) -> None:  # noqa: FBT001 - drawn
        """Let several workers begin chunks of one job, and then end them, each in its own way."""
        for _ in range(2):
            self._publish(job_id, 4 if is_all else None)
            for ref in [ref for ref in self.free() if ref.job_id == job_id and ref.number == PLAN]:
                self._work(ref, (2, 3, 2))
        for ref, worker in zip([ref for ref in self.free() if ref.job_id == job_id], "ABCA", strict=False):
            self._claim(ref, worker)
        begun = [held for held in self.alive() if held.ref.job_id == job_id]
        for held, outcome in zip(begun, outcomes, strict=False):
            self.check()
            if self.is_held(held):
                self._end(held, outcome)

    def _end(self, held: Held, outcome: str) -> None:
        if outcome == "finish":
            self._finish(held, (1, 2))
        elif outcome == "give up":
            self.give_up(held)
        elif outcome == "give back":
            self.give_back(held, 0, is_fault=False)
        elif outcome == "stop the job":
            self.stop_job(held)
        else:
            self._pass(LEASE)

    # The sweeper and the clock.

    @rule()
    def sweep(self) -> None:
        self._sweep()

    @precondition(lambda self: self.model.exhausted())
    @rule()
    def look_for_exhausted(self) -> None:
        with transaction() as session:
            claims = sweeper._exhausted(session)
        assert {claim.ref for claim in claims} == {chunk.ref for chunk in self.model.exhausted()}
        self.seen += [Held(claim, "sweeper") for claim in claims]

    @_if_any("seen_exhausted")
    @rule(held=_one_of("seen_exhausted"))
    def give_up_what_was_seen(self, held: Held) -> None:
        self.seen.remove(held)
        if not self.is_held(held):
            with pytest.raises(LeaseLostError):
                actors.give_up(held)
            return
        actors.give_up(held)
        self.model.fail_chunk(held.ref)

    @rule(seconds=st.sampled_from([TICK, 2 * TICK, LEASE, 16 * TICK, AGES]))
    def let_time_pass(self, seconds: int) -> None:
        self._pass(seconds)

    # What must be true.

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        self.check()

    def teardown(self) -> None:
        """Let a sweeper and workers without a fault bring every job to its end."""
        if sys.exception() is not None:
            return  # a step has failed: that is to be reported
        for _ in range(30):
            if not self.unfinished():
                return
            self._pass(AGES)
            refs = self._sweep()
            self.check()
            while refs:
                ref = refs.pop(0)
                self._work(ref, (2, 1))
                refs += self._publish(ref.job_id)
        pytest.fail(f"nobody brings these jobs to an end: {self.unfinished()}")


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let few chunks of a job be on the queue at a time, so that some are not."""
    monkeypatch.setenv("OPSPIPE_PUBLISH_WINDOW", str(WINDOW))
    monkeypatch.setenv("OPSPIPE_LEASE_SECONDS", str(PATIENCE))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.mark.usefixtures("small_window")
def test_whatever_happens_in_whatever_order_the_ledger_is_as_its_model(
    session: Session, project: ProjectRef
) -> None:
    session.execute(text("UPDATE projects SET id = 'project' WHERE id = :id"), {"id": project.id})
    session.add(Upload(id="upload", project_id="project", file_name="batch.csv", storage_key="batch.csv"))
    session.commit()
    run_state_machine_as_test(
        Ledger,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            # Nothing is written into the tree; a fault is printed with its steps.
            database=None,
            # One fault at a time, and no search for an explanation: shortening the steps takes long enough.
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
