"""One event loop a process, in a thread of its own: calls of AI servers run on it side by side.

Made at first use, so that a forked worker gets its own. Whoever calls `run` waits; several threads may.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the process's loop and give its result; it sees the caller's context variables."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _get_loop())
    try:
        return future.result()
    finally:
        # Where the caller was interrupted (a time limit, a shutdown) the calls stop too.
        future.cancel()


def _get_loop() -> asyncio.AbstractEventLoop:
    global _loop  # noqa: PLW0603 - one loop a process is the point
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="ai-calls", daemon=True).start()
        return _loop


def _forget() -> None:
    global _loop, _lock
    _loop, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)
