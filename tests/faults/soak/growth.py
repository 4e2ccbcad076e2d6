"""Whether memory grows: from the first quarter of a soak to its last, and within the life of a process."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tests.faults.soak.samples import Memory

# Of the soak, and of each process: what is imported and filled at first is no growth.
_WARM_UP_SHARE, _YOUNG_SECONDS = 0.1, 90.0
_SHORTEST_LIFE_SECONDS = 180.0
_HOUR = 3600.0
# Gross growth is beyond both. The largest chunk, caches of statements and the fragments in between have come
# and stay within the half and this much; chunks that are kept for good pass it within minutes.
_MOST_FACTOR, _MOST_MB = 1.5, 64.0


@dataclass(frozen=True)
class Growth:
    """How the memory of the processes of one name develops, in MB a process (see `Memory.size`).

    Args:
        name: what the processes are.
        processes: how many there were, one after the other or beside each other.
        first: median of the first quarter after warming up.
        last: median of the last quarter.
        hours: between the middles of both.
        slope: MB an hour within a process's life, over all that lived long enough; None where none did.
    """

    name: str
    processes: int
    first: float
    last: float
    hours: float
    slope: float | None

    @property
    def an_hour(self) -> float:
        """MB an hour, between the quarters."""
        return (self.last - self.first) / self.hours

    @property
    def is_gross(self) -> bool:
        """Whether it is more than what comes at first and stays."""
        return self.last > _MOST_FACTOR * self.first + _MOST_MB


def measure_growth(samples: Sequence[Memory], seconds: float) -> Iterator[Growth]:
    """Say for each name how its memory has grown in so many seconds.

    What began in the last quarter, or ended in the first, tells nothing.
    """
    start = seconds * _WARM_UP_SHARE
    quarter = (seconds - start) / 4
    by_name: dict[str, list[Memory]] = defaultdict(list)
    for sample in samples:
        by_name[sample.name].append(sample)
    for name, found in by_name.items():
        first = [entry.size for entry in found if start <= entry.seconds < start + quarter]
        last = [entry.size for entry in found if seconds - quarter <= entry.seconds <= seconds]
        if first and last:
            yield Growth(
                name,
                len({entry.pid for entry in found}),
                float(np.median(first)),
                float(np.median(last)),
                3 * quarter / _HOUR,
                _slope(found),
            )


def _slope(samples: Sequence[Memory]) -> float | None:
    """Fit one slope to all lives together, each around its own mean."""
    above, below = 0.0, 0.0
    for seconds, sizes in _lives(samples):
        offsets = seconds - seconds.mean()
        above += float(offsets @ (sizes - sizes.mean()))
        below += float(offsets @ offsets)
    return above / below * _HOUR if below else None


def _lives(samples: Sequence[Memory]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give seconds and sizes of each process that lived long enough, without its youth."""
    by_pid: dict[int, list[Memory]] = defaultdict(list)
    for sample in samples:
        by_pid[sample.pid].append(sample)
    for life in by_pid.values():
        born = life[0].seconds
        if life[-1].seconds - born >= _SHORTEST_LIFE_SECONDS:
            grown = [entry for entry in life if entry.seconds - born >= _YOUNG_SECONDS]
            yield np.array([entry.seconds for entry in grown]), np.array([entry.size for entry in grown])
