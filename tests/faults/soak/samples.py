"""What is measured while a soak runs: memory of each process, connections, queues, the ledger."""

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psutil
import psycopg
from kombu.exceptions import OperationalError
from psycopg.rows import dict_row
from redis.exceptions import RedisError

from tests.faults.brokers import QUEUES
from tests.faults.guarded import GuardedServer
from tests.faults.installation import Installation
from tests.faults.soak.background import Background
from tests.faults.soak.invariants import COUNTERS

_PAUSE_SECONDS = 3.0
_COUNT = """
    WITH clients AS (
        SELECT state, state_change FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND application_name <> 'faults'
    ), open AS (SELECT state FROM work_chunks WHERE state IN ('PENDING', 'LEASED'))
    SELECT
        (SELECT count(*) FROM clients) AS connections,
        (SELECT count(*) FROM clients WHERE state = 'active') AS active,
        (SELECT count(*) FROM clients WHERE state LIKE 'idle in transaction%') AS idle_in_transaction,
        (SELECT count(*) FROM open) AS open_chunks,
        (SELECT count(*) FROM open WHERE state = 'LEASED') AS leases,
        (SELECT count(*) FROM data_records) AS records,
        (SELECT count(*) FROM ingest_jobs WHERE status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED'))
            + (SELECT count(*) FROM analytics_jobs WHERE status IN ('PENDING', 'PROCESSING')) AS jobs
"""


@dataclass(frozen=True)
class Memory:
    """Memory of a process at a moment, in MB; a server's processes are taken together.

    Args:
        seconds: of the soak.
        name: what the process is.
        pid: which one it is; of a server the main process.
        rss: what is in memory, shared pages included.
        pss: the same, shared pages divided among those who share them; where the system does not tell, `uss`.
        uss: what it has for itself.
        size: what is drawn and compared: `rss` of a process, which stays as it is when another one ends that
            shared pages with it; `pss` of a server, whose processes share much.
    """

    seconds: float
    name: str
    pid: int
    rss: float
    pss: float
    uss: float
    size: float


@dataclass(frozen=True)
class Counts:
    """Counts at a moment; None while who knows them is away."""

    seconds: float
    connections: int | None = None
    active: int | None = None
    idle_in_transaction: int | None = None
    open_chunks: int | None = None
    leases: int | None = None
    records: int | None = None
    jobs: int | None = None
    ingest: int | None = None
    vectorize: int | None = None
    analyze: int | None = None
    schedule: int | None = None


class Sampler(Background):
    """Measures every few seconds in a thread of its own, and writes each measure down at once.

    Args:
        installation: what is measured.
        clock: seconds of the soak.
        out: the folder for `memory.csv` and `counts.csv`.
    """

    def __init__(self, installation: Installation, clock: Callable[[], float], out: Path) -> None:
        super().__init__()
        self._installation, self._clock, self._out = installation, clock, out
        self.memory: list[Memory] = []
        self.counts: list[Counts] = []
        # Where the counters of a job did not agree with its rows in one snapshot.
        self.disagreements: list[str] = []

    def _work(self) -> None:
        with ExitStack() as stack:
            sinks = [
                stack.enter_context((self._out / name).open("w", newline=""))
                for name in ("memory.csv", "counts.csv")
            ]
            memory, counts = (csv.writer(sink) for sink in sinks)
            memory.writerow(field.name for field in fields(Memory))
            counts.writerow(field.name for field in fields(Counts))
            while not self._over.wait(_PAUSE_SECONDS):
                self._sample(memory, counts)
                for sink in sinks:
                    sink.flush()

    def _sample(self, memory: Any, counts: Any) -> None:  # noqa: ANN401 - csv names no type of its writers
        now = round(self._clock(), 1)
        found = [entry for group in self._groups() for entry in _measure(now, *group)]
        count = Counts(now, **self._ask_database(), **self._ask_broker())
        self.memory += found
        self.counts.append(count)
        memory.writerows(asdict(entry).values() for entry in found)
        counts.writerow(asdict(count).values())

    def _groups(self) -> Iterator[tuple[str, list[psutil.Process], bool]]:
        """Give the processes by their names, and whether they are measured together."""
        installation = self._installation
        for name in installation.names():
            with suppress(psutil.NoSuchProcess):
                family = installation.family(name)
                yield name, family[:1], False
                yield f"{name} pool", family[1:], False
        yield "postgresql", _family(installation.database), True
        server = installation.broker.server
        yield server.folder.name, _family(server), True

    def _ask_database(self) -> dict[str, int]:
        try:
            with self._installation.connect() as connection:
                cursor = connection.cursor(row_factory=dict_row)
                self.disagreements += [f"{row}" for row in cursor.execute(COUNTERS).fetchall()]
                return cursor.execute(_COUNT).fetchone() or {}
        except psycopg.OperationalError:
            return {}

    def _ask_broker(self) -> dict[str, int]:
        try:
            return {
                name: count for name, count in self._installation.broker.queued().items() if name in QUEUES
            }
        except (RedisError, OperationalError, OSError):
            return {}


def _family(server: GuardedServer) -> list[psutil.Process]:
    """List a server's processes; none while it is away."""
    with suppress(psutil.NoSuchProcess, OSError):
        process = server.look()
        if process is not None:
            return [process, *process.children(recursive=True)]
    return []


def _measure(
    seconds: float,
    name: str,
    processes: Iterable[psutil.Process],
    is_together: bool,  # noqa: FBT001 - of the group
) -> Iterator[Memory]:
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            info = process.memory_full_info()
            sizes = (info.rss, getattr(info, "pss", info.uss), info.uss)
            # One that ends at this moment has none any more.
            if info.rss:
                found.append((process.pid, *(round(size / 1e6, 2) for size in sizes)))
    if is_together and found:
        found = [(found[0][0], *(round(sum(column), 2) for column in list(zip(*found, strict=True))[1:]))]
    for pid, rss, pss, uss in found:
        yield Memory(seconds, name, int(pid), rss, pss, uss, size=pss if is_together else rss)
