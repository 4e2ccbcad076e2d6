"""What became of many items of work, whatever stopped it: nothing that was paid for is thrown away."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pipeline.errors import FatalError, PermanentError, PipelineError

T = TypeVar("T")
Item = TypeVar("Item")


class WorkStoppedError(PipelineError):
    """An error of other work has stopped this; `Settled.stopped_by` is that error."""

    code = "WORK_STOPPED"


@dataclass
class Settled(Generic[T]):
    """Results and failures by the item's place; an item in neither is open, and `stopped_by` says why."""

    results: dict[int, T] = field(default_factory=dict)
    failures: dict[int, PermanentError] = field(default_factory=dict)
    stopped_by: PipelineError | None = None


_current: ContextVar[Settled[Any] | None] = ContextVar("settled", default=None)


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
    (`check_wanted`).
    """

    async def guarded(item: Item) -> None:
        if settled.stopped_by is None:
            try:
                await work(item)
            except WorkStoppedError:
                return  # `stopped_by` says by what
            except PipelineError as error:
                # The gravest is told: a refused key rather than the time-out beside it.
                if settled.stopped_by is None or isinstance(error, FatalError):
                    settled.stopped_by = error

    token = _current.set(settled)
    try:
        await asyncio.gather(*(guarded(item) for item in items))
    finally:
        _current.reset(token)
