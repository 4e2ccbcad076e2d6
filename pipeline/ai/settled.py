"""What became of many items of work, whatever stopped it: nothing that was paid for is thrown away."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pipeline.errors import FatalError, PermanentError, PipelineError

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass
class Settled(Generic[T]):
    """Results and failures by the item's place; an item in neither is open, and `stopped_by` says why."""

    results: dict[int, T] = field(default_factory=dict)
    failures: dict[int, PermanentError] = field(default_factory=dict)
    stopped_by: PipelineError | None = None


async def work_on_all(
    items: Iterable[Item], work: Callable[[Item], Awaitable[None]], settled: Settled[T]
) -> None:
    """Work on all items side by side; an error stops what has not begun, what runs is waited for.

    `work` asks `settled.stopped_by` before each of its calls.
    """

    async def guarded(item: Item) -> None:
        if settled.stopped_by is None:
            try:
                await work(item)
            except PipelineError as error:
                # The gravest is told: a refused key rather than the time-out beside it.
                if settled.stopped_by is None or isinstance(error, FatalError):
                    settled.stopped_by = error

    await asyncio.gather(*(guarded(item) for item in items))
