"""Questions that threads have at the same time are asked together, so that many cost hardly more than one."""

import threading
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Generic, TypeVar

from pipeline.errors import TransientError

K = TypeVar("K")
V = TypeVar("V")

# Longer than it takes to notice that a line is dead (`database.read`).
_PATIENCE_SECONDS = 15.0


class _Batch(Generic[K, V]):
    """Keys that are asked for together, and what came of it."""

    def __init__(self) -> None:
        self.keys: set[K] = set()
        self.is_asked = False
        self.found: dict[K, V] = {}
        # By key. Whoever finds neither was left alone, as where the thread that asked was ended.
        self.errors: dict[K, Exception] = {}
        self.is_answered = False


class Together(Generic[K, V]):
    """Look things up by key for many threads, with one question at a time.

    Who comes while a question is under way is asked for by the next one, with all who came meanwhile. So an
    answer is never older than its question, as it would be from a cache.

    Args:
        ask: looks up any number of keys; leaves out those that it does not find.
    """

    def __init__(self, ask: Callable[[Sequence[K]], Mapping[K, V]]) -> None:
        self._ask = ask
        self._joining, self._asking = threading.Lock(), threading.Lock()
        self._next: _Batch[K, V] = _Batch()

    def find(self, key: K) -> V | None:
        """Look one up; None where it is not found.

        Raises:
            TransientError: the questions before took too long, or this one may be answered later.
            Exception: the question failed for this key.
        """
        with self._joining:
            batch = self._next
            batch.keys.add(key)
        if not self._asking.acquire(timeout=_PATIENCE_SECONDS):
            raise TransientError("the database did not answer in time")
        try:
            if not batch.is_asked:
                self._ask_for(batch)
        finally:
            self._asking.release()
        if (error := batch.errors.get(key)) is not None:
            # Each thread raises one of its own: what is raised collects the frames that it passes.
            raise copy(error) from error
        if not batch.is_answered:
            raise TransientError("the question was not asked to its end")
        return batch.found.get(key)

    def _ask_for(self, batch: _Batch[K, V]) -> None:
        with self._joining:
            self._next = _Batch()
            batch.is_asked = True
        self._ask_some(batch, list(batch.keys))
        batch.is_answered = True

    def _ask_some(self, batch: _Batch[K, V], keys: Sequence[K]) -> None:
        try:
            batch.found.update(self._ask(keys))
        except TransientError as error:
            batch.errors.update(dict.fromkeys(keys, error))
        except Exception as error:  # noqa: BLE001 - told to who asked for it
            if len(keys) == 1:
                batch.errors[keys[0]] = error
                return
            # What is wrong with one of them is nobody else's.
            for key in keys:
                self._ask_some(batch, [key])
