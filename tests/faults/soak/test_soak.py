"""Jobs of all kinds for a long time, with one fault after the other: nothing breaks and nothing grows."""

import csv
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from pipeline.database import get_engine
from tests.faults.guarded import wait_for
from tests.faults.installation import Installation
from tests.faults.job import check_messages
from tests.faults.observer import find_forbidden_changes, read_status_changes, watch_statuses
from tests.faults.soak.growth import measure_growth
from tests.faults.soak.invariants import (
    find_broken,
    find_lost,
    find_orphans,
    find_unexpected,
    find_wrong_embeddings,
    find_wrongly_cancelled,
)
from tests.faults.soak.mixture import Mixture, is_all_done, patiently
from tests.faults.soak.models import CountingServer
from tests.faults.soak.payments import read_payments, watch_results
from tests.faults.soak.plot import plot_soak
from tests.faults.soak.report import Soak
from tests.faults.soak.samples import Sampler
from tests.faults.soak.troubles import Troubles
from tests.faults.soak.visitor import Visitor

_PROGRESS_SECONDS = 15.0
_END_SECONDS = 300.0
_THERE = text("""
    SELECT 'ingest ' || status, count(*) FROM ingest_jobs GROUP BY status
    UNION ALL SELECT 'analytics ' || status, count(*) FROM analytics_jobs GROUP BY status
    UNION ALL SELECT 'records', count(*) FROM data_records
""")


class _Run:
    """One soak: everybody who takes part in it, from the beginning to the report."""

    def __init__(
        self, installation: Installation, server: CountingServer, guidelines: Path, seed: int, out: Path
    ) -> None:
        self._installation, self._server, self._out = installation, server, out
        self.name = f"{installation.broker.server.folder.name}, seed {seed}"
        self._started = time.monotonic()
        storage = threading.Lock()
        self._mixture = Mixture(Random(f"jobs {seed}"), guidelines, storage)
        self._troubles = Troubles(installation, Random(f"faults {seed}"), self._clock, storage)
        self._sampler = Sampler(installation, self._clock, out)
        self._visitor = Visitor()
        self._told_at = 0.0
        self._broken: list[str] = []

    def work(self, minutes: float) -> None:
        """Submit for so long, then see everything through to its end."""
        with self._installation.connect() as connection:
            watch_statuses(connection)
        watch_results(self._installation)
        self._mixture.make_projects()
        parts = (self._sampler, self._visitor, self._troubles)
        with ExitStack() as stack:
            for part in parts:
                part.start()
                stack.callback(part.stop)
            self._mixture.run(lambda: self._is_over(minutes))
            self._troubles.stop()
            self._see_through()
        self._broken += [f"{part.error!r} ended a part of the soak" for part in parts if part.error]

    def report(self, title: str) -> Soak:
        """Hold everything against what must be true."""
        cost, interrupted = self._troubles.cost(), self._mixture.interrupted
        with self._installation.connect() as connection:
            self._broken += find_forbidden_changes(read_status_changes(connection))
        payments = read_payments(self._installation, self._server, cost, interrupted)
        self._broken += payments.broken()
        self._broken += [f"meanwhile {entry}" for entry in self._sampler.disagreements]
        self._broken += self._find_broken()
        growths = list(measure_growth(self._sampler.memory, self._clock()))
        self._broken += [f"{growth.name} has grown grossly" for growth in growths if growth.is_gross]
        self._write(title)
        return Soak(
            title=title,
            mixture=self._mixture,
            troubles=self._troubles,
            visitor=self._visitor,
            payments=payments,
            counts=self._sampler.counts,
            growths=growths,
            there=_count_what_is_there(),
            broken=self._broken,
        )

    def _clock(self) -> float:
        return time.monotonic() - self._started

    def _is_over(self, minutes: float) -> bool:
        now = self._clock()
        if now >= self._told_at and self._sampler.counts:
            self._told_at = now + _PROGRESS_SECONDS
            self._tell(now)
        return now >= minutes * 60

    def _tell(self, now: float) -> None:
        last, asked = self._sampler.counts[-1], sum(self._mixture.asked.values())
        _say(
            f"{now / 60:5.1f} min  {asked} asked for, {last.jobs} jobs under way, {last.records} records, "
            f"{last.connections} connections, {len(self._troubles.made)} faults"
        )

    def _see_through(self) -> None:
        """Wait for the end of all jobs, and of those that take up what a cancelled one has left."""
        try:
            _await_the_end("all jobs")
            self._mixture.settle()
            _await_the_end("the last jobs")
            check_messages(self._installation)
        except AssertionError as error:
            self._broken.append(str(error))

    def _find_broken(self) -> Iterator[str]:
        mixture = self._mixture
        with Session(get_engine()) as session:
            yield from find_broken(session)
            yield from find_lost(session, mixture.batches)
            yield from find_wrong_embeddings(session)
            yield from find_wrongly_cancelled(session, mixture.cancelled, mixture.stay_cancelled)
        yield from find_unexpected(self._installation.logs)
        yield from find_orphans(self._installation)

    def _write(self, title: str) -> None:
        """Put the plot, the faults and the logs beside the figures."""
        shutil.copytree(self._installation.logs, self._out / "logs", dirs_exist_ok=True)
        sampler, made = self._sampler, self._troubles.made
        with (self._out / "faults.csv").open("w", newline="") as sink:
            csv.writer(sink).writerows(
                [("seconds", "name"), *((round(entry.at, 1), entry.name) for entry in made)]
            )
        plot_soak(sampler.memory, sampler.counts, made, self._out / "soak.png", title=title)


def _await_the_end(what: str) -> None:
    wait_for(lambda: patiently(is_all_done), f"the end of {what}", seconds=_END_SECONDS)


def _count_what_is_there() -> Counter[str]:
    with Session(get_engine()) as session:
        return Counter({str(name): int(count) for name, count in session.execute(_THERE).all()})


def _say(line: str) -> None:
    print(line, flush=True)


@pytest.fixture
def run(
    installation: Installation, use_ai_server: CountingServer, guidelines: Path, seed: int, out: Path
) -> _Run:
    return _Run(installation, use_ai_server, guidelines, seed, out)


@pytest.mark.timeout(0)
def test_nothing_breaks_and_nothing_grows(run: _Run, minutes: float, out: Path) -> None:
    _say("")
    run.work(minutes)
    soak = run.report(f"Soak of {minutes:g} minutes, {run.name}")
    report = "\n".join(soak.lines())
    (out / "report.txt").write_text(report + "\n")
    _say(f"\n{report}\n\nFigures and plot: {out}")
    assert not soak.broken
