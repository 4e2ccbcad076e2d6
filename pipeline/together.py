"""Questions that threads have at the same time are asked together, so that many cost hardly more than one."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class _Batch(Generic[K, V]):
    """Keys that are asked for together, and what came of it."""

    def __init__(self) -> None:
        self.keys: set[K] = set()
        self.is_asked = False
        self.found: Mapping[K, V] = {}
        self.error: Exception | None = None


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
            Exception: the question failed; of all who asked together, each is told.
        """
        with self._joining:
            batch = self._next
            batch.keys.add(key)
        with self._asking:
            if not batch.is_asked:
                self._ask_for(batch)
        if batch.error is not None:
            raise batch.error
        return batch.found.get(key)

    def _ask_for(self, batch: _Batch[K, V]) -> None:
        with self._joining:
            self._next = _Batch()
            batch.is_asked = True
        try:
            batch.found = self._ask(list(batch.keys))
        except Exception as error:  # noqa: BLE001 - told to everybody whose question it was
            batch.error = error
