"""The gate before a server: lets a call begin when the server is well and a slot is free; learns from it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TypeVar

from pipeline.ai import health
from pipeline.ai.health import Health
from pipeline.ai.settled import check_wanted
from pipeline.ai.slots import Slots
from pipeline.ai.spending import admit_call
from pipeline.errors import FatalError, ServerError
from pipeline.lease import check_lease
from pipeline.settings import get_settings

T = TypeVar("T")

# What others have learned about the server is known here after so long.
_REFRESH_SECONDS = 0.25
# A request is on its way by then.
_AFTER_YOU_SECONDS = 0.004
# A longer pause is not waited for in the process: the chunk is given back.
_LONGEST_WAIT_SECONDS = 5.0
_TOO_MANY_REQUESTS, _SERVER_FAULT = 429, 500
# A fault of the server while it answers others is one of the input; it does not pause the others. More of
# them in a row are the server's.
_RECENT_SECONDS = 5.0
_FAULTS_OF_AN_INPUT = 3
# So many calls at a time for who sits before a screen, in a process, beside the slots.
_CALLS_AT_ONCE = 2


# Of calls that wait for nobody, whether one that succeeds ends a pause; None for all others.
_at_once: ContextVar[bool | None] = ContextVar("at_once", default=None)


class ServerPausedError(ServerError):
    """Nobody calls the server for longer than is worth waiting; `retry_after` says for how long."""


@contextmanager
def at_once(*, ends_pause: bool = False) -> Iterator[None]:
    """Let the few calls of the block through at once, whoever waits: somebody sits before a screen.

    They take no slot, and one that fails has no consequences for others.

    Args:
        ends_pause: whether one that succeeds ends a pause that the server asked for: somebody has looked
            after the server and wants to know how it does.
    """
    token = _at_once.set(ends_pause)
    try:
        yield
    finally:
        _at_once.reset(token)


class Gate:
    """What all calls of one server in this process go through."""

    def __init__(self, url: str) -> None:
        settings = get_settings()
        self._url, self._configured, self._patience = url, settings.ai_concurrency, settings.ai_patience
        self._slots = Slots(settings.home / "run" / "ai-slots", url)
        self._slots.limit = self._configured
        self._health = Health()
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        # When the last call that succeeded began, and when it was answered.
        self._good_since, self._succeeded_at = float("-inf"), float("-inf")
        self._faults = 0
        self._few = asyncio.Semaphore(_CALLS_AT_ONCE)

    async def call(
        self, part: str, work: Callable[[], Awaitable[T]], account: Callable[[T], Awaitable[None]]
    ) -> T:
        """Hold a slot for one call, and note how the call went.

        Args:
            part: the model that is called.
            work: the call.
            account: takes note of what it has used, before the slot is anybody else's.

        Raises:
            ServerPausedError: the server is paused for longer than is worth waiting.
            FatalError: it has failed every call for as long as our patience lasts.
            BudgetSpentError: the job may not cost more.
            LeaseLostError: the work is not wanted any more.
            WorkStoppedError: an error of another call has stopped this work.
            PipelineError: what the call raises.
        """
        ends_pause = _at_once.get()
        if ends_pause is not None:
            return await self._call_at_once(part, work, account, ends_pause=ends_pause)
        async with self._slots.hold():
            # Behind the slot: whoever waited for one knows then of a pause that began meanwhile.
            await self._wait()
            await admit_call()
            began = time.monotonic()
            try:
                found = await work()
            except ServerError as error:
                await self.note_failure(part, error)
                raise
            self._good_since = max(self._good_since, began)
            self._succeeded_at, self._faults = time.monotonic(), 0
            await account(found)
        if self._health.is_failing(part) or self._health.slots is not None:
            await self._note_success(part)
        # What is made of the answer has time; whoever got the slot sends first.
        await asyncio.sleep(_AFTER_YOU_SECONDS)
        return found

    async def note_failure(self, part: str, error: ServerError) -> None:
        """Let everybody know that the server failed at a call of a part of it.

        Raises:
            FatalError: it has failed every call for as long as our patience lasts.
        """
        if _at_once.get() is not None or (error.status == _SERVER_FAULT and self._is_of_an_input()):
            return
        await asyncio.to_thread(
            health.note_failure,
            self._url,
            part,
            str(error),
            failures=self._health.failures,
            retry_after=error.retry_after,
        )
        if error.status == _TOO_MANY_REQUESTS:
            await asyncio.to_thread(health.lower_slots, self._url, self._configured)
        await self._read()
        failing_seconds = self._health.failing.get(part, 0.0)
        if failing_seconds > self._patience:
            minutes = failing_seconds / 60
            raise FatalError(
                f"{self._url} has not answered a single call of {part} for {minutes:.0f} min, the last time: "
                f"{error}. "
                "See that the server runs (`opspipe settings test`), then retry the job"
            ) from error

    async def note_answer(self, part: str) -> None:
        """Let everybody know that a part of the server answers that is called without a slot."""
        await asyncio.to_thread(health.note_listed, self._url, part)

    async def _call_at_once(
        self,
        part: str,
        work: Callable[[], Awaitable[T]],
        account: Callable[[T], Awaitable[None]],
        *,
        ends_pause: bool,
    ) -> T:
        async with self._few:
            await admit_call()
            found = await work()
            await account(found)
        await asyncio.to_thread(health.note_success, self._url, part, ends_pause=ends_pause)
        await self._read()
        return found

    def close(self) -> None:
        """Give back the slots."""
        self._slots.close()

    def succeeded_since(self, moment: float) -> bool:
        """Tell whether a call of this process began after a moment of `time.monotonic` and succeeded."""
        return self._good_since > moment

    def _is_of_an_input(self) -> bool:
        self._faults += 1
        is_recent = self._succeeded_at > time.monotonic() - _RECENT_SECONDS
        return is_recent and self._faults <= _FAULTS_OF_AN_INPUT

    async def _wait(self) -> None:
        while True:
            check_lease()
            check_wanted()
            if time.monotonic() - self._read_at > _REFRESH_SECONDS:
                await self._refresh()
            left = self._health.pause_seconds - (time.monotonic() - self._read_at)
            if left <= 0:
                return
            if left > _LONGEST_WAIT_SECONDS:
                reason = f"calls are paused: {self._health.reason}"
                raise ServerPausedError(reason, retry_after=left)
            await asyncio.sleep(min(left, _REFRESH_SECONDS))

    async def _refresh(self) -> None:
        """Have the server's state read again, beside the calls; wait for it only where it is long unknown."""
        if self._reading is not None and self._reading.done():
            read, self._reading = self._reading, None
            read.result()  # raises what the reading met
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        if time.monotonic() - self._read_at > 2 * _REFRESH_SECONDS:
            # Who is cancelled does not take the reading along that others wait for.
            await asyncio.shield(self._reading)

    async def _read(self) -> None:
        self._health = await asyncio.to_thread(health.read_health, self._url)
        self._read_at = time.monotonic()
        self._slots.limit = min(self._health.slots or self._configured, self._configured)

    async def _note_success(self, part: str) -> None:
        if self._health.is_failing(part):
            # A pause that was asked for stays.
            failing = {name: since for name, since in self._health.failing.items() if name != part}
            self._health = replace(self._health, failures=0, failing=failing)
            await asyncio.to_thread(health.note_success, self._url, part)
        elif self._health.slots is not None:
            await asyncio.to_thread(health.raise_slots, self._url, self._configured)
