"""The picture of a soak."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")  # no screen

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from tests.faults.brokers import QUEUES
from tests.faults.soak.samples import Counts, Memory
from tests.faults.soak.troubles import NOTHING, Trouble

_SIZE = (16.0, 13.0)
# A process that is measured anew after so long without it is drawn with a gap.
_GAP_SECONDS = 10.0
_MINUTE = 60.0


def plot_soak(
    memory: Sequence[Memory], counts: Sequence[Counts], troubles: Sequence[Trouble], file: Path, *, title: str
) -> None:
    """Draw memory, queues and connections over time, and each fault as a line with its name."""
    figure, (top, first, second, third) = plt.subplots(
        4, 1, figsize=_SIZE, sharex=True, layout="constrained", height_ratios=(0.9, 4, 2, 2)
    )
    figure.suptitle(title)
    _name_troubles(top, troubles)
    _draw_memory(first, memory)
    _draw_counts(second, counts, (*QUEUES, "open_chunks", "leases"), "messages, chunks")
    second.set_yscale("symlog", linthresh=10)
    _draw_counts(third, counts, ("connections", "active", "idle_in_transaction", "jobs"), "connections, jobs")
    for axes in (first, second, third):
        for trouble in troubles:
            axes.axvline(trouble.at / _MINUTE, color="0.5", linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
        axes.grid(axis="y", alpha=0.3)
        axes.set_ylim(bottom=0)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    third.set_xlabel("minutes")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _name_troubles(axes: Axes, troubles: Sequence[Trouble]) -> None:
    axes.set_ylim(0, 1)
    axes.axis("off")
    for trouble in troubles:
        color = "0.6" if trouble.name == NOTHING else "black"
        axes.text(
            trouble.at / _MINUTE,
            0.0,
            trouble.name,
            rotation=90,
            fontsize=7,
            ha="center",
            va="bottom",
            color=color,
        )


def _draw_memory(axes: Axes, memory: Sequence[Memory]) -> None:
    """Draw a line for each process, in one color for all of a name."""
    lives: dict[tuple[str, int], list[Memory]] = defaultdict(list)
    for sample in memory:
        lives[sample.name, sample.pid].append(sample)
    names = sorted({name for name, _ in lives})
    colors = dict(zip(names, plt.get_cmap("tab20").colors, strict=False))  # type: ignore[attr-defined]
    labels = set[str]()
    for (name, _), life in sorted(lives.items()):
        seconds = [sample.seconds for sample in life]
        label = "_" if name in labels else name
        labels.add(name)
        axes.plot(
            [second / _MINUTE for second in seconds],
            [sample.size for sample in life],
            color=colors[name],
            linewidth=1.1,
            label=label,
        )
    axes.set_ylabel("memory, MB a process (RSS; servers PSS)")


def _draw_counts(axes: Axes, counts: Sequence[Counts], names: Sequence[str], what: str) -> None:
    minutes = [count.seconds / _MINUTE for count in counts]
    for name in names:
        values = [float("nan") if (value := getattr(count, name)) is None else value for count in counts]
        axes.plot(minutes, values, linewidth=1.1, label=name.replace("_", " "))
    axes.set_ylabel(what)
