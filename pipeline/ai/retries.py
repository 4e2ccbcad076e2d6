"""Trying a call again, and telling a server that is in trouble from an input that it cannot take."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pipeline.ai.base import Provider
from pipeline.errors import AnswerError, PipelineError, ServerError

T = TypeVar("T")

_TRIES, _TRIES_IF_BUSY = 3, 12
_TOO_MANY_REQUESTS, _SERVER_FAULT = 429, 500
# What the server itself asks for, and what others have learned, is waited for at the gate.
_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 2.0


class InputFaultError(AnswerError):
    """A server fails at this input, and at this one only."""

    code = "SERVER_ERROR"


async def call_again(
    provider: Provider, call: Callable[[], Awaitable[T]], probe: Callable[[], Awaitable[object]]
) -> T:
    """Make a call up to three times, and see whose fault it is when none succeeds.

    A server that hangs up, is too slow or away may be in trouble where it just answered: the input is blamed
    only after three further tries, each beside a call that succeeded. A status of 500 is believed sooner.

    Args:
        provider: whose call it is; its gate waits where the server wants to be left alone.
        call: the call.
        probe: a small call of known good input.

    Raises:
        ServerError: the server is in trouble.
        InputFaultError: the server answers others and fails at this input each time.
        PipelineError: any other error of the call, at once.
    """
    began, tries, blames = time.monotonic(), 0, 0
    while True:
        tries += 1
        try:
            return await call()
        except ServerError as error:
            is_busy, is_fault = error.status == _TOO_MANY_REQUESTS, error.status == _SERVER_FAULT
            if tries >= (_TRIES_IF_BUSY if is_busy else _TRIES):
                is_well = is_fault and provider.succeeded_since(began)
                if is_busy or not (is_well or await _is_well(probe)):
                    raise
                blames += 1
                if is_fault or blames > _TRIES:
                    raise InputFaultError(str(error)) from error
            if error.status is not None:
                await asyncio.sleep(_pause(tries))


def _pause(tries: int) -> float:
    longest = min(_PAUSE_SECONDS * 2**tries, _LONGEST_PAUSE_SECONDS)
    return random.uniform(longest / 2, longest)  # noqa: S311 - jitter, no secret


async def _is_well(probe: Callable[[], Awaitable[object]]) -> bool:
    try:
        await probe()
    except PipelineError:
        # Whatever it says of the probe, the error of the call stands.
        return False
    return True
