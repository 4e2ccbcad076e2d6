"""How commands that start processes react to being stopped."""

import os
import signal
import threading
import time
from types import FrameType

_LOOK_SECONDS = 0.5


def stop_on_signals() -> None:
    """Let SIGTERM and SIGINT end the command as Ctrl-C does: what it started is stopped on the way out.

    SIGINT too, because a shell that starts a command in the background has it ignored.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def stop_with_parent() -> None:
    """Stop when the parent process is gone: a killed `make` must not leave a command running behind it."""
    parent = os.getppid()

    def _watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=_watch, name="parent watch", daemon=True).start()
