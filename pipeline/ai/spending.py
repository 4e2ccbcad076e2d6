"""What calls cost a job: kept in the database as it is spent, and stopped at the job's budget.

The meter of a job is that of the context, so that a call anywhere below is counted, also one whose answer
turns out to be of no use.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from pipeline.ai.base import BudgetSpentError, Usage
from pipeline.database import transaction
from pipeline.errors import TransientError
from schemas.own import AiUsage

log = logging.getLogger(__name__)

# Without a budget a killed worker loses the account of so long a time.
_WRITE_SECONDS = 1.0

# Of a job that was deleted meanwhile nobody asks any more.
_ADD = text("""
    INSERT INTO ai_usage AS spent
        (job_id, stage, model, call_count, input_tokens, output_tokens, cost_usd)
    SELECT job_id, :stage, :model, :call_count, :input_tokens, :output_tokens, :cost_usd
    FROM work_jobs WHERE job_id = :job_id FOR KEY SHARE
    ON CONFLICT (job_id, stage, model) DO UPDATE SET
        call_count = spent.call_count + excluded.call_count,
        input_tokens = spent.input_tokens + excluded.input_tokens,
        output_tokens = spent.output_tokens + excluded.output_tokens,
        cost_usd = spent.cost_usd + excluded.cost_usd
""")


class Meter:
    """Counts the calls that one chunk of a job makes.

    Args:
        job_id: the job.
        stage: the stage of it.
        budget_usd: what the job may cost in all; None for any amount.
    """

    def __init__(self, job_id: str, stage: str, budget_usd: float | None) -> None:
        self._job_id, self._stage, self._budget = job_id, stage, budget_usd
        self._unwritten: dict[str, Usage] = {}
        self._written_at = time.monotonic()
        self._lock = threading.Lock()
        # Held until what was taken along is committed: whoever finds nothing left to write waits for that,
        # or else the next call would be let through on an account that lacks it.
        self._writing = threading.Lock()

    async def admit(self) -> None:
        """Let a call begin, as long as the budget lasts.

        Raises:
            BudgetSpentError: it is spent.
        """
        if self._budget is None:
            return
        spent = await asyncio.to_thread(self._read_spent)
        if spent >= self._budget:
            raise BudgetSpentError(
                f"{BudgetSpentError.code}: the budget of {self._budget:.4g} USD is spent "
                f"({spent:.4g} USD so far): `opspipe retry {self._job_id} --budget USD` "
                "goes on with a larger one"
            )

    async def record(self, model: str, usage: Usage) -> None:
        """Count a call. Its answer is not to be lost because the database does not take its cost."""
        with self._lock:
            self._unwritten[model] = self._unwritten.get(model, Usage()) + usage
        if self._budget is not None or time.monotonic() - self._written_at > _WRITE_SECONDS:
            try:
                await asyncio.to_thread(self.write)
            except TransientError as error:
                log.warning("what job %s has spent is written down later: %s", self._job_id, error)

    def write(self) -> None:
        """Put what was counted into the database."""
        with self._handing_over() as unwritten:
            if unwritten:
                with transaction(is_durable=False) as session:
                    self._add(session, unwritten)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a transaction as `pipeline.database` does, which takes along what was counted, at its end.

        What is rolled back counts as not written. A commit whose answer was lost is asked after, so that
        nothing is counted twice.
        """
        with self._handing_over() as unwritten, transaction(is_sure=True) as session:
            yield session
            # Last, because others wait for these rows until the transaction ends.
            self._add(session, unwritten)

    @contextmanager
    def _handing_over(self) -> Iterator[dict[str, Usage]]:
        with self._writing:
            with self._lock:
                unwritten, self._unwritten = self._unwritten, {}
                self._written_at = time.monotonic()
            try:
                yield unwritten
            except BaseException:
                with self._lock:
                    for model, usage in unwritten.items():
                        self._unwritten[model] = self._unwritten.get(model, Usage()) + usage
                raise

    def _add(self, session: Session, unwritten: Mapping[str, Usage]) -> None:
        for model in sorted(unwritten):
            _add(session, self._job_id, self._stage, model, unwritten[model])

    def _read_spent(self) -> float:
        # What could not be written down when it was spent.
        self.write()
        with transaction(is_durable=False) as session:
            return read_spent(session, self._job_id).cost_usd or 0.0


_current: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextmanager
def metered(job_id: str, stage: str, *, budget_usd: float | None = None) -> Iterator[Meter]:
    """Count every call of the block for a job, within its budget; gives what counts."""
    meter = Meter(job_id, stage, budget_usd)
    token = _current.set(meter)
    try:
        yield meter
    except BaseException:
        try:
            meter.write()
        except TransientError:
            # The error of the work is the one to be told.
            log.warning("what job %s has spent could not be written down", job_id, exc_info=True)
        raise
    else:
        meter.write()
    finally:
        _current.reset(token)


async def admit_call() -> None:
    """Let a call of this context begin.

    Raises:
        BudgetSpentError: its job's budget is spent.
    """
    meter = _current.get()
    if meter is not None:
        await meter.admit()


async def record_call(model: str, usage: Usage) -> None:
    """Count a call of this context for its job; calls of no job are not counted."""
    meter = _current.get()
    if meter is not None:
        await meter.record(model, usage)


def read_spent(session: Session, job_id: str) -> Usage:
    """Give what a job has used so far, of all models and stages; its cost is 0 where no price was known."""
    columns = (AiUsage.call_count, AiUsage.input_tokens, AiUsage.output_tokens, AiUsage.cost_usd)
    sums = (func.coalesce(func.sum(column), 0) for column in columns)
    row = session.execute(select(*sums).where(AiUsage.job_id == job_id)).one()
    return Usage(int(row[0]), int(row[1]), int(row[2]), float(row[3]))


def _add(session: Session, job_id: str, stage: str, model: str, usage: Usage) -> None:
    spent = {
        "job_id": job_id,
        "stage": stage,
        "model": model,
        "call_count": usage.calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_usd": usage.cost_usd or 0.0,
    }
    session.execute(_ADD, spent)
