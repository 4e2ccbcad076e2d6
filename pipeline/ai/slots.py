"""How many calls of a server are under way at a time, over all processes of this machine.

A slot is a locked file: a process that dies gives its slots back, whatever it died of. A process keeps a slot
as long as it has another call waiting, so that a slot goes idle only where nobody waits.

Processes take further slots in turns, two at a time, each until none of its calls waits: some write down what
they were answered while others call. All side by side would come to their writing at the same moment, and the
server would have nothing to do; one at a time would read all answers by itself.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

# Waiting costs a lock attempt this often; a slot that another process leaves is idle for half of it.
_POLL_SECONDS = 0.002
_TURNS = ("turn-0", "turn-1")


class Slots:
    """The slots of one server, as one event loop uses them.

    Args:
        folder: where the files are; the same for all processes of the machine.
        server: the server's URL.
    """

    def __init__(self, folder: Path, server: str) -> None:
        self._folder = folder / hashlib.sha256(server.encode()).hexdigest()[:16]
        self._files: dict[str, int] = {}
        self._held: set[int] = set()
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._poller: asyncio.Task[None] | None = None
        self._turn: str | None = None
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
            self._unlock(str(slot))
            self._held.discard(slot)

    def _hand_over(self, slot: int) -> bool:
        while self._waiting:
            future = self._waiting.popleft()
            if not self._waiting:
                self._end_turn()
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
        self._turn = self._turn or self._lock_one(_TURNS)
        if self._turn is None:
            return None
        name = self._lock_one(str(slot) for slot in range(self.limit) if slot not in self._held)
        if not self._waiting:
            self._end_turn()
        if name is None:
            return None
        self._held.add(int(name))
        return int(name)

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._unlock(self._turn)
            self._turn = None

    def _lock_one(self, names: Iterable[str]) -> str | None:
        for name in names:
            if name not in self._files:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._files[name] = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o600)
            with contextlib.suppress(BlockingIOError):  # another process has it
                fcntl.flock(self._files[name], fcntl.LOCK_EX | fcntl.LOCK_NB)
                return name
        return None

    def _unlock(self, name: str) -> None:
        fcntl.flock(self._files[name], fcntl.LOCK_UN)

    def close(self) -> None:
        """Give everything back."""
        for handle in self._files.values():
            os.close(handle)
        self._files.clear()
        self._held.clear()
        self._turn = None
