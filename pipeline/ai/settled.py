"""What became of many items of work, whatever stopped it: nothing that was paid for is thrown away."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pipeline.errors import FatalError, PermanentError, PipelineError, TransientError
from pipeline.settings import get_settings

T = TypeVar("T")
Item = TypeVar("Item")

# Work that goes on for longer keeps what it has and begins anew with the rest. Six calls that nobody answers
# are enough to find out about some inputs, so that each time something is settled.
_WORK_SECONDS, _WORK_CALLS = 1800.0, 6


class WorkStoppedError(PipelineError):
    """An error of other work has stopped this; `Settled.stopped_by` is that error."""

    code = "WORK_STOPPED"


class TimeUpError(TransientError):
    """The work has lasted as long as it may in one go; the rest of it can be begun at once."""

    code = "TIME_UP"


class UnforeseenError(PipelineError):
    """An error that nobody foresaw, which is this one's cause."""

    code = "UNFORESEEN"


@dataclass
class Settled(Generic[T]):
    """Results and failures by the item's place; an item in neither is open, and `stopped_by` says why."""

    results: dict[int, T] = field(default_factory=dict)
    failures: dict[int, PermanentError] = field(default_factory=dict)
    stopped_by: PipelineError | None = None

    def stop(self, error: PipelineError) -> None:
        """Let nothing more begin; of several errors the gravest is told: a refused key before a time-out."""
        if self.stopped_by is None or isinstance(error, FatalError):
            self.stopped_by = error


_current: ContextVar[Settled[Any] | None] = ContextVar("settled", default=None)
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def longest_work_seconds() -> float:
    """Say how long the work on a chunk may go on, its last calls not counted."""
    return max(_WORK_SECONDS, _WORK_CALLS * float(get_settings().ai_call_seconds))


@contextmanager
def limited_work(seconds: float) -> Iterator[None]:
    """Have all work of the block stopped by a TimeUpError after a time; what is under way then is kept."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def check_wanted() -> None:
    """See that nothing has stopped the work that this context does; asked by a call before it begins.

    Raises:
        WorkStoppedError: something has.
    """
    settled = _current.get()
    if settled is not None and settled.stopped_by is not None:
        raise WorkStoppedError(f"the work was stopped: {settled.stopped_by}")


async def work_on_all(
    items: Iterable[Item], work: Callable[[Item], Awaitable[None]], settled: Settled[T]
) -> None:
    """Work on all items side by side; an error stops what has not begun, what runs is waited for.

    `work` asks `settled.stopped_by` before each of its calls, and a call that had to wait asks again
    (`check_wanted`). No error is raised: also one that nobody foresaw is in `settled.stopped_by`.
    """
    token = _current.set(settled)
    try:
        deadline = _deadline.get()
        if deadline is None:
            await work_side_by_side(items, work, settled)
        else:
            await _work_until(deadline, items, work, settled)
    finally:
        _current.reset(token)


async def work_side_by_side(
    items: Iterable[Item], work: Callable[[Item], Awaitable[None]], settled: Settled[T]
) -> None:
    """Work on what an item of `work_on_all` falls into, in the same way."""
    left = iter(items)

    async def work_on_some() -> None:
        for item in left:
            if settled.stopped_by is not None:
                return
            await _guarded(work(item), settled)

    # So many that one waits for each slot. What has begun is settled before more begins: where calls last
    # until their time is up, all of them together would not come to an end.
    at_once = 2 * get_settings().ai_concurrency
    await asyncio.gather(*(work_on_some() for _ in range(at_once)))


async def _guarded(work: Awaitable[None], settled: Settled[T]) -> None:
    try:
        await work
    except WorkStoppedError:
        return  # `stopped_by` says by what
    except PipelineError as error:
        settled.stop(error)
    except Exception as error:  # noqa: BLE001 - kept as the cause; what is settled is kept too
        unforeseen = UnforeseenError(f"{type(error).__name__}: {error}")
        unforeseen.__cause__ = error
        settled.stop(unforeseen)


async def _work_until(
    deadline: float, items: Iterable[Item], work: Callable[[Item], Awaitable[None]], settled: Settled[T]
) -> None:
    error = TimeUpError("the work has lasted as long as it may in one go", retry_after=0.0)
    left = deadline - time.monotonic()
    if left <= 0:
        settled.stop(error)
        return
    alarm = asyncio.get_running_loop().call_later(left, settled.stop, error)
    try:
        # Who has a slot by then is answered; who still waits for one is not waited for.
        async with asyncio.timeout(left + get_settings().ai_call_seconds + 1):
            await work_side_by_side(items, work, settled)
    except TimeoutError:
        settled.stop(error)
    finally:
        alarm.cancel()
