"""One fault after the other while jobs run, drawn from all that the fault suite knows."""

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from random import Random

import psutil

from tests.faults.faults import FROM_THE_START, SUDDEN, Cost, Fault
from tests.faults.installation import Installation
from tests.faults.soak.background import Background

_PAUSE_SECONDS = (10.0, 30.0)
NOTHING = "nothing"


def _do_nothing(_installation: Installation, _rng: Random) -> Cost:
    return Cost()


FAULTS: dict[str, Fault] = {NOTHING: _do_nothing, **SUDDEN, **FROM_THE_START}


@dataclass(frozen=True)
class Trouble:
    """A fault that happened at a moment, in seconds of the soak, and what it may have cost."""

    at: float
    name: str
    cost: Cost


class Troubles(Background):
    """Makes trouble every now and then, in a thread of its own.

    Args:
        installation: what is broken; what a fault began goes on until the next one.
        rng: decides what is broken, and when.
        clock: seconds of the soak.
        storage: see `Mixture`.
    """

    def __init__(
        self, installation: Installation, rng: Random, clock: Callable[[], float], storage: threading.Lock
    ) -> None:
        super().__init__()
        self._installation, self._rng, self._clock, self._storage = installation, rng, clock, storage
        self.made: list[Trouble] = []

    def stop(self) -> None:
        """Make no more, and end what the last one began; once more does nothing."""
        super().stop()
        self._installation.wait_for_servers()
        self._installation.end()

    def cost(self) -> Cost:
        """Say what all of it may have cost."""
        costs = [trouble.cost for trouble in self.made]
        return Cost(sum(cost.chunks for cost in costs), sum(cost.calls for cost in costs))

    def counts(self) -> Counter[str]:
        """Count the faults by their names."""
        return Counter(trouble.name for trouble in self.made)

    def _work(self) -> None:
        while not self._over.wait(self._rng.uniform(*_PAUSE_SECONDS)):
            self._make(self._rng.choice(list(FAULTS)))

    def _make(self, name: str) -> None:
        installation = self._installation
        installation.wait_for_servers()
        installation.end()
        for service in installation.names():
            installation.wait_until_runs(service)
        at, rng = self._clock(), Random(self._rng.random())
        try:
            with self._storage if name == "lose_storage" else nullcontext():
                cost = FAULTS[name](installation, rng)
        except psutil.NoSuchProcess:
            # It has ended by itself at this moment, as a worker does that lost its broker.
            cost = Cost(chunks=1)
        self.made.append(Trouble(at, name, cost))
