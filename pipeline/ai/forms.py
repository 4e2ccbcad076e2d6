"""In which form a server wants to be asked: found out by trying, and remembered as long as the process."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TypeVar

from pipeline.ai.http import InvalidAnswerError
from pipeline.errors import PermanentError, ServerError

T = TypeVar("T")

_SERVER_FAULT = 500
# Some servers answer each call in a form that they do not know with a fault, others only once in a while.
_TRY_AGAIN_SECONDS = 600.0


class Forms:
    """The forms of one kind of call of one model.

    A form that is refused is not tried again once a lesser one worked. After a fault of the server it is: at
    the next call about something else, then every ten minutes; all other calls take the lesser form.

    Args:
        forms: at least one, the best first.
        is_tried_alone: whether other calls wait for the first one to find out, where a try is dear.
    """

    def __init__(self, forms: Sequence[str], *, is_tried_alone: bool) -> None:
        self._forms, self._is_tried_alone = forms, is_tried_alone
        self._known: str | None = None
        # What worked where a better form met a fault, what that call was about, and when to try again.
        self._lesser: str | None = None
        self._faulted_by: Hashable = None
        self._again_at = 0.0
        self._trial: asyncio.Event | None = None

    async def ask(self, about: Hashable, ask: Callable[[str], Awaitable[T]]) -> T:
        """Ask in the form that is known to work; else in each, until one does.

        Where none works the input is at fault and not the form: nothing is remembered.

        Args:
            about: tells calls from others that carry something else.
            ask: makes the call in a form.

        Raises:
            PipelineError: what the call raises; where no form works, what it raised in the first.
        """
        if self._trial is not None and self._is_tried_alone and self._known is None and self._lesser is None:
            # Once: if that call finds nothing out, nobody waits for the next.
            await self._trial.wait()
        form = self._known or (None if self._is_to_be_tried(about) else self._lesser)
        if form is not None:
            return await ask(form)
        if self._trial is not None:
            return await self._try_all(about, ask)
        self._trial = asyncio.Event()
        try:
            return await self._try_all(about, ask)
        finally:
            self._trial.set()
            self._trial = None

    def _is_to_be_tried(self, about: Hashable) -> bool:
        """Tell whether a call is the one that sees whether a better form than the lesser works by now."""
        return self._trial is None and about != self._faulted_by and time.monotonic() >= self._again_at

    async def _try_all(self, about: Hashable, ask: Callable[[str], Awaitable[T]]) -> T:
        is_first = self._lesser is None
        errors: list[PermanentError | ServerError] = []
        for form in self._forms:
            try:
                answer = await ask(form)
            except PermanentError as error:
                # A server that does not know the form may refuse it, or take no notice and answer in its own.
                if not (error.code.startswith("HTTP_") or isinstance(error, InvalidAnswerError)):
                    raise
                errors.append(error)
            except ServerError as error:
                if error.status != _SERVER_FAULT:
                    raise
                errors.append(error)
            else:
                if any(isinstance(error, ServerError) for error in errors):
                    self._lesser, self._faulted_by = form, about
                    self._again_at = 0.0 if is_first else time.monotonic() + _TRY_AGAIN_SECONDS
                else:
                    self._known = form
                return answer
        raise errors[0]
