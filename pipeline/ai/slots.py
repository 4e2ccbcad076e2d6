"""How many calls of a server are under way at a time, over all processes of this machine.

A slot is a locked file: a process that dies gives its slots back, whatever it died of. A process keeps a slot
as long as it has another call waiting, so that a slot goes idle only where nobody waits.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

# Waiting costs a lock attempt this often; a slot that another process leaves is idle for half of it.
_POLL_SECONDS = 0.002


class Slots:
    """The slots of one server, as one event loop uses them.

    Args:
        folder: where the files are; the same for all processes of the machine.
        server: the server's URL.
    """

    def __init__(self, folder: Path, server: str) -> None:
        self._folder = folder / hashlib.sha256(server.encode()).hexdigest()[:16]
        self._files: dict[int, int] = {}
        self._held: set[int] = set()
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._poller: asyncio.Task[None] | None = None
        self.limit = 1

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it as long as the block."""
        slot = await self._acquire()
        try:
            yield
        finally:
            self._release(slot)

    async def _acquire(self) -> int:
        if not self._waiting:
            slot = self._take()
            if slot is not None:
                return slot
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._release(future.result())
            raise

    def _release(self, slot: int) -> None:
        if slot >= self.limit or not self._hand_over(slot):
            fcntl.flock(self._files[slot], fcntl.LOCK_UN)
            self._held.discard(slot)

    def _hand_over(self, slot: int) -> bool:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(slot)
                return True
        return False

    async def _poll(self) -> None:
        while self._waiting:
            slot = self._take()
            if slot is None:
                await asyncio.sleep(_POLL_SECONDS)
            elif not self._hand_over(slot):
                self._release(slot)

    def _take(self) -> int | None:
        for slot in range(self.limit):
            if slot not in self._held:
                with contextlib.suppress(BlockingIOError):  # another process has it
                    fcntl.flock(self._file(slot), fcntl.LOCK_EX | fcntl.LOCK_NB)
                    self._held.add(slot)
                    return slot
        return None

    def _file(self, slot: int) -> int:
        if slot not in self._files:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._files[slot] = os.open(self._folder / str(slot), os.O_RDWR | os.O_CREAT, 0o600)
        return self._files[slot]

    def close(self) -> None:
        """Give everything back."""
        for handle in self._files.values():
            os.close(handle)
        self._files.clear()
        self._held.clear()
