"""What a soak says at its end."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.faults.soak.growth import Growth
from tests.faults.soak.mixture import Mixture
from tests.faults.soak.payments import Payments
from tests.faults.soak.samples import Counts
from tests.faults.soak.troubles import Troubles
from tests.faults.soak.visitor import Visitor

_LABEL = 15


@dataclass(frozen=True)
class Soak:
    """What was done and what came of it."""

    title: str
    mixture: Mixture
    troubles: Troubles
    visitor: Visitor
    payments: Payments
    counts: Sequence[Counts]
    growths: Sequence[Growth]
    # Jobs by kind and status, and records, at the end.
    there: Mapping[str, int]
    broken: Sequence[str]

    def lines(self) -> Iterator[str]:
        """Give the report, line by line."""
        yield self.title
        yield _line("asked for", _list(self.mixture.asked))
        yield _line("refused", _list(self.mixture.refused))
        yield _line("at the end", _list(self.there))
        yield _line("faults", f"{len(self.troubles.made)}: {_list(self.troubles.counts())}")
        yield _line("HTTP answers", _list(self.visitor.answers))
        yield from self._payments()
        yield from self._counts()
        yield from _table(self.growths)
        yield _line("invariants", "all kept" if not self.broken else f"{len(self.broken)} broken")
        yield from (f"  BROKEN {sentence}" for sentence in self.broken)

    def _payments(self) -> Iterator[str]:
        paid = self.payments
        yield _line(
            "paid for",
            f"{paid.texts:,} texts, {paid.lost_texts:,} lost (allowed {paid.lost_texts_allowed:,}); "
            f"{paid.questions:,} questions, {paid.lost_questions:,} lost "
            f"(allowed {paid.lost_questions_allowed:,})",
        )

    def _counts(self) -> Iterator[str]:
        for label, names in (
            ("connections", ("connections", "active", "idle_in_transaction")),
            ("queues", ("ingest", "vectorize", "analyze", "schedule")),
            ("ledger", ("open_chunks", "leases", "jobs")),
        ):
            most = {name.replace("_", " "): self._most(name) for name in names}
            yield _line(label, f"at most {_list(most)}")

    def _most(self, name: str) -> int:
        return max((getattr(count, name) or 0 for count in self.counts), default=0)


def _table(growths: Sequence[Growth]) -> Iterator[str]:
    yield _line(
        "memory",
        f"{'MB (RSS; servers PSS)':22}{'processes':>10}{'first':>8}{'last':>8}{'MB/h':>8}{'in a life':>11}",
    )
    for growth in growths:
        slope = "-" if growth.slope is None else f"{growth.slope:+.0f}"
        yield _line(
            "",
            f"{growth.name:22}{growth.processes:>10}{growth.first:>8.0f}{growth.last:>8.0f}"
            f"{growth.an_hour:>+8.0f}{slope:>11}",
        )


def _line(label: str, value: str) -> str:
    return f"{label:{_LABEL}}{value}".rstrip()


def _list(counts: Mapping[str, int]) -> str:
    ordered = Counter(counts).most_common()
    return ", ".join(f"{name} {count:,}" for name, count in ordered) or "none"
