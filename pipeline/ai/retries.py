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
_PAUSE_SECONDS = 0.1


class InputFaultError(AnswerError):
    """A server fails at this input, and at this one only."""

    code = "SERVER_ERROR"


async def call_again(
    provider: Provider, call: Callable[[], Awaitable[T]], probe: Callable[[], Awaitable[object]]
) -> T:
    """Make a call up to three times.

    Args:
        provider: whose call it is; its gate waits where the server wants to be left alone.
        call: the call.
        probe: a small call of known good input, to see whether the server is well.

    Raises:
        ServerError: the server is in trouble.
        InputFaultError: the server answers others and fails at this input each time.
        PipelineError: any other error of the call, at once.
    """
    began, tries = time.monotonic(), 0
    while True:
        tries += 1
        try:
            return await call()
        except ServerError as error:
            if error.status == _SERVER_FAULT and tries >= _TRIES:
                if provider.succeeded_since(began) or await _is_well(probe):
                    raise InputFaultError(str(error)) from error
                raise
            if tries >= (_TRIES_IF_BUSY if error.status == _TOO_MANY_REQUESTS else _TRIES):
                raise
            await asyncio.sleep(_PAUSE_SECONDS * 2**tries * random.uniform(0.5, 1.0))  # noqa: S311 - jitter


async def _is_well(probe: Callable[[], Awaitable[object]]) -> bool:
    try:
        await probe()
    except PipelineError:
        # Whatever it says of the probe, the error of the call stands.
        return False
    return True
