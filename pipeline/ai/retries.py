"""Trying a call again, and telling a server that is in trouble from an input that it cannot take."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.ai.base import Provider
from pipeline.ai.gate import ServerPausedError
from pipeline.ai.http import SlowServerError
from pipeline.errors import AnswerError, PermanentError, PipelineError, ServerError

T = TypeVar("T")

_TOO_MANY_REQUESTS, _SERVER_FAULT = 429, 500
# What the server itself asks for, and what others have learned, is waited for at the gate.
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0
# How often a call is made before anybody asks whose fault it is, and how many more are made then.
_TRIES, _MORE_TRIES = 3, 3
_TRIES_IF_BUSY = 12
# A status of 500 is believed sooner, and waiting until a call's time is up is dear.
_MORE_TRIES_IF_FAULT = 1
TRIES_IF_SLOW = 2


class InputFaultError(AnswerError):
    """A server fails at this input, and at this one only."""

    code = "SERVER_ERROR"


class SlowInputError(InputFaultError):
    """A server answers others in time, and this input not at all."""

    code = "TIMED_OUT"


class Probe:
    """A small call of known good input, which tells whether a server is well; many that doubt it ask once.

    Args:
        provider: whose server it is.
        call: the call, which costs what it costs: it is made only where no other call tells as much.
    """

    def __init__(self, provider: Provider, call: Callable[[], Awaitable[object]]) -> None:
        self._provider, self._call = provider, call
        self._lock = asyncio.Lock()
        # When the last probe that was answered was wanted, and when the last one failed.
        self._answered_since, self._failed_at = float("-inf"), float("-inf")

    async def is_well(self, doubted_at: float) -> bool:
        """Tell whether the server has answered a call that began after a moment of `time.monotonic`."""
        async with self._lock:
            if self._provider.succeeded_since(doubted_at) or self._answered_since > doubted_at:
                return True
            if self._failed_at > doubted_at:
                return False
            asked_at = time.monotonic()
            try:
                await self._call()
            except PermanentError:
                pass  # an answer, though of no use: a thinking model has no room for more than its thoughts
            except PipelineError:
                # Whatever it says of the probe, the error of the call stands.
                self._failed_at = time.monotonic()
                return False
            self._answered_since = asked_at
            return True


async def call_again(
    call: Callable[[], Awaitable[T]],
    probe: Probe,
    *,
    tries_if_slow: int = TRIES_IF_SLOW,
) -> T:
    """Make a call up to three times, and see whose fault it is when none succeeds.

    A server that hangs up, is busy or away may be in trouble where it just answered: the input is blamed only
    after further tries, each beside a call that began after the last failure and succeeded.

    Args:
        call: the call; the gate before it waits where the server wants to be left alone.
        probe: tells whether the server is well.
        tries_if_slow: how often a call may last until its time is up, while others succeed.

    Raises:
        ServerError: the server is in trouble.
        InputFaultError: the server answers others and fails at this input each time.
        PipelineError: any other error of the call, at once.
    """
    doubts = _Doubts(probe, tries_if_slow)
    while True:
        try:
            return await call()
        except ServerPausedError:
            raise
        except ServerError as error:
            await doubts.weigh(error)


@dataclass
class _Doubts:
    """What speaks against an input so far: calls that failed, and how often the server was well then."""

    probe: Probe
    tries_if_slow: int
    tries: int = 0
    slow: int = 0
    blames: int = 0

    async def weigh(self, error: ServerError) -> None:
        """Take note of a failure, and wait until the call may be made again; raises where it may not be."""
        if isinstance(error, SlowServerError):
            await self._weigh_slow(error)
            return
        self.tries += 1
        failed_at = time.monotonic()
        if error.status is not None:
            await asyncio.sleep(_pause(self.tries))
        if self.tries < _tries(error):
            return
        if not await self.probe.is_well(failed_at):
            raise error
        self.blames += 1
        if self.blames > _more_tries(error):
            raise InputFaultError(str(error)) from error

    async def _weigh_slow(self, error: SlowServerError) -> None:
        # No pause: the call has lasted long enough.
        self.slow += 1
        if not await self.probe.is_well(time.monotonic()):
            raise error
        if self.slow >= self.tries_if_slow:
            raise SlowInputError(str(error)) from error


def _tries(error: ServerError) -> int:
    return _TRIES_IF_BUSY if error.status == _TOO_MANY_REQUESTS else _TRIES


def _more_tries(error: ServerError) -> int:
    return _MORE_TRIES_IF_FAULT if error.status == _SERVER_FAULT else _MORE_TRIES


def _pause(tries: int) -> float:
    longest = min(_PAUSE_SECONDS * 2**tries, _LONGEST_PAUSE_SECONDS)
    return random.uniform(longest / 2, longest)  # noqa: S311 - jitter, no secret
