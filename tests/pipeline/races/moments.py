"""Doing something at one moment of other work, so that a test can walk through all of them.

A moment is where a transaction is about to be committed and, if asked for, where a statement is about to be
sent. What is done then is done by somebody else, on a connection of its own. If that waits for a lock of the
transaction, it comes right after the commit, and else right before: both sides of each commit are looked at.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from sqlalchemy import event

from pipeline.database import get_engine

_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
_PAUSE_SECONDS = 0.002
_EVENTS = ("begin", "commit", "before_cursor_execute")


class Intrusion:
    """Acts once, when the work of the block comes to its moment `at`, counted from 0.

    The work goes on when the act is over or waits for a lock. What the act raises is raised at the end of the
    block.
    """

    def __init__(self, act: Callable[[], object], *, at: int, at_statements: bool = False) -> None:
        self._act, self._at, self._passed = act, at, 0
        self._moments = {"commit", "before_cursor_execute"} if at_statements else {"commit"}
        self._worker = threading.current_thread()
        self._thread = threading.Thread(target=self._run, name="intruder")
        self._error: BaseException | None = None
        # Which moment it was, for whoever reads why a test has failed.
        self.where = "none"

    @property
    def came(self) -> bool:
        """Whether the work has had so many moments."""
        return self._passed > self._at

    def __enter__(self) -> Self:
        self._listeners = [(name, self._listener(name)) for name in _EVENTS]
        for name, listener in self._listeners:
            event.listen(get_engine(), name, listener)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name, listener in self._listeners:
            event.remove(get_engine(), name, listener)
        if self.came:
            self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _listener(self, name: str) -> Callable[..., None]:
        def listener(*arguments: Any) -> None:  # noqa: ANN401 - of each kind of event others
            # Not of who acts, nor of the calls of models, on which both may have to wait.
            if threading.current_thread() is not self._worker:
                return
            if name in self._moments:
                self._pass(" ".join([name, *(str(argument).strip() for argument in arguments[2:3])]))
            self._let_act()

        return listener

    def _pass(self, where: str) -> None:
        self._passed += 1
        if self._passed == self._at + 1:
            self.where = where
            self._thread.start()

    def _let_act(self) -> None:
        # Also later: who waited for a transaction comes when it has ended, and before the next one.
        while self.came and self._thread.is_alive():
            self._thread.join(_PAUSE_SECONDS)
            if self._thread.is_alive() and number_waiting():
                return

    def _run(self) -> None:
        try:
            self._act()
        except BaseException as error:  # noqa: BLE001 - raised where the block ends
            self._error = error


def number_waiting() -> int:
    """Count who waits for a lock, beside the events of the engine."""
    connection = get_engine().raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(_WAITING)
        (count,) = cursor.fetchone() or (0,)
        return int(count)
    finally:
        connection.close()
