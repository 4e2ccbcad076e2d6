"""Many who watch the same thing: it is looked at once a second, however many they are."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.errors import NotFoundError, PipelineError

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


class TooManyError(PipelineError):
    """So many watch that another one would keep others from being answered."""

    code = "RATE_LIMITED"


@dataclass(frozen=True)
class Seen:
    """What a look has found, and whether nothing will change any more; `number` grows with each change."""

    number: int
    text: str
    is_last: bool


class Watched:
    """A thing that somebody watches; its looks are made by a thread of its own."""

    def __init__(self, look: Callable[[], tuple[str, bool]]) -> None:
        self._look = look
        self._changed = threading.Condition()
        self._seen: Seen | None = None
        self._is_over = False
        self.listeners = 0

    def wait(self, after: int, seconds: float) -> Seen | None:
        """Wait for what is newer than a number; None where nothing is after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_newer(after) or self._is_over, seconds)
            return self._seen if self._is_newer(after) else None

    def is_over(self) -> bool:
        """Tell whether nobody looks any more: the thing is gone, or nothing will change."""
        with self._changed:
            return self._is_over

    def work(self, is_wanted: Callable[[], bool]) -> None:
        """Look once a second until nobody wants to know, or nothing will change any more."""
        pause = threading.Event()
        while is_wanted():
            try:
                found, is_last = self._look()
            except NotFoundError:
                break
            except PipelineError as error:
                log.warning("nothing is seen for now: %s", error)
            else:
                self._note(found, is_last=is_last)
                if is_last:
                    break
            pause.wait(_LOOK_SECONDS)
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _note(self, found: str, *, is_last: bool) -> None:
        with self._changed:
            if self._seen is None or self._seen.text != found:
                self._seen = Seen(1 if self._seen is None else self._seen.number + 1, found, is_last)
                self._changed.notify_all()

    def _is_newer(self, after: int) -> bool:
        return self._seen is not None and self._seen.number > after


class Watch:
    """All that is watched in this process.

    Args:
        look: gives what is to be told of the thing with this key, and whether it is the last of it.
        most: how many may watch at a time.
    """

    def __init__(self, look: Callable[[str], tuple[str, bool]], *, most: int) -> None:
        self._look, self._most = look, most
        self._lock = threading.Lock()
        self._watched: dict[str, Watched] = {}
        self._count = 0

    @contextmanager
    def watching(self, key: str) -> Iterator[Watched]:
        """Watch a thing while the block lasts.

        Raises:
            TooManyError: too many watch already.
        """
        watched = self._join(key)
        try:
            yield watched
        finally:
            with self._lock:
                watched.listeners -= 1
                self._count -= 1

    def _join(self, key: str) -> Watched:
        with self._lock:
            if self._count >= self._most:
                raise TooManyError(
                    f"{self._count} are watching already: ask for the status now and then instead"
                )
            watched = self._watched.get(key)
            if watched is None or watched.is_over():
                watched = self._watched[key] = Watched(lambda: self._look(key))
                threading.Thread(
                    target=self._work, args=(key, watched), name=f"watch of {key}", daemon=True
                ).start()
            watched.listeners += 1
            self._count += 1
            return watched

    def _work(self, key: str, watched: Watched) -> None:
        watched.work(lambda: self._is_wanted(key, watched))
        with self._lock:
            self._forget(key, watched)

    def _is_wanted(self, key: str, watched: Watched) -> bool:
        with self._lock:
            if not watched.listeners:
                # At once, so that nobody joins who would not be looked for.
                self._forget(key, watched)
            return watched.listeners > 0

    def _forget(self, key: str, watched: Watched) -> None:
        if self._watched.get(key) is watched:
            del self._watched[key]
