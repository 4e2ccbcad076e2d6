"""Large work lets small work in between: whoever loads a large chunk asks now and then who else waits.

A worker that has begun a chunk is busy for seconds, and maybe all workers are. Smaller chunks would shorten
that, and cost every load a tenth of its speed (docs/performance.md).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

# A small job hardly notices so long, and the question costs some milliseconds.
_ASK_SECONDS = 0.25


@dataclass
class _Courtesy:
    let_in: Callable[[], None]
    asked_at: float


_current: ContextVar[_Courtesy | None] = ContextVar("courtesy", default=None)


@contextmanager
def giving_way(let_in: Callable[[], None]) -> Iterator[None]:
    """Have `give_way` do this, at most four times a second, while the block works.

    Args:
        let_in: does the small work that waits, if any does; gives way to nobody itself.
    """
    token = _current.set(_Courtesy(let_in, time.monotonic()))
    try:
        yield
    finally:
        _current.reset(token)


def give_way() -> None:
    """Let small work in, if it is time to ask for some; costs next to nothing where it is not.

    To be called where no lock is held that other work of the pipeline waits for: that work may be what is let
    in, and then it would wait for ever.
    """
    courtesy = _current.get()
    if courtesy is None or time.monotonic() - courtesy.asked_at < _ASK_SECONDS:
        return
    token = _current.set(None)
    try:
        courtesy.let_in()
    finally:
        _current.reset(token)
        courtesy.asked_at = time.monotonic()
