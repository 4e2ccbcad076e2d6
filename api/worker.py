"""gunicorn's threads, of which nobody outside can hold one for long without sending anything."""

import socket
import time
from contextlib import suppress
from typing import Any

from gunicorn.util import close_graceful
from gunicorn.workers.gthread import TConn, ThreadWorker

# A head is a few hundred bytes: who takes longer for one does it on purpose, or is gone.
_MOST_HEAD_SECONDS = 10.0


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A worker that cuts clients off who do not get to the end of their head.

    gunicorn itself waits for a head as long as the client likes, which holds a thread; and the one thread
    that takes connections waits up to two seconds for each client that was answered before it had sent
    everything.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - gunicorn's own
        super().__init__(*arguments, **named)
        # Until when the head must be there, by connection; added to by one thread, looked through by another.
        self._heads_due: dict[TConn, float] = {}

    def handle(self, conn: TConn) -> object:
        """Take one request of a connection; gives whether it may take another."""
        self._heads_due[conn] = time.monotonic() + _MOST_HEAD_SECONDS
        try:
            stays = super().handle(conn)
        finally:
            self._heads_due.pop(conn, None)
        if stays is False:
            # Here it holds up nobody else. gunicorn closes it afterwards, and finds nothing to wait for.
            with suppress(OSError):
                close_graceful(conn.sock.dup())
                conn.sock.shutdown(socket.SHUT_RDWR)
        return stays

    def handle_request(self, req: object, conn: TConn) -> object:
        """Answer a request, whose head is there now."""
        self._heads_due.pop(conn, None)
        return super().handle_request(req, conn)

    def finish_request(self, conn: TConn, fs: object) -> None:
        """Do what follows a request, in the thread that takes connections."""
        if conn.sock.fileno() == -1:
            # An answer that broke off was closed with it. gunicorn would close it again, fail, and count it
            # as two that have gone, until it knew of none that it has to wait for.
            self.nr_conns -= 1
            return
        super().finish_request(conn, fs)

    def murder_pending(self) -> None:
        """Cut off who is overdue; gunicorn asks once a second."""
        super().murder_pending()
        now = time.monotonic()
        for conn, due in self._heads_due.copy().items():
            if due < now:
                # Whoever reads from it is told that it has ended.
                with suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)
