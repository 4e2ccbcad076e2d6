"""Plots of the benchmarks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no screen

import matplotlib.pyplot as plt

_LABELS = {
    "workers": "worker processes",
    "rows": "rows of the file",
    "table_rows": "records in the table before",
}


def plot_load(pairs: Sequence[tuple[float, Any]], file: Path) -> None:
    """Draw, for each run, the limit and the load beside it."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    places = range(1, len(pairs) + 1)
    limits, loads = [limit for limit, _ in pairs], [load.rate for _, load in pairs]
    axes.bar(
        [place - 0.2 for place in places], limits, 0.38, label="limit: COPY of packed rows", color="0.75"
    )
    bars = axes.bar([place + 0.2 for place in places], loads, 0.38, label="load", color="tab:blue")
    ratios = [f"{load / limit:.2f}" for limit, load in zip(limits, loads, strict=True)]
    axes.bar_label(bars, labels=ratios, padding=2)
    axes.set(xlabel="run", ylabel="rows/s", xticks=list(places), title="Load against the limit, 2 workers")
    axes.margins(y=0.25)
    axes.legend()
    figure.savefig(file, dpi=110)


def plot_scaling(series: Mapping[str, Sequence[Any]], file: Path) -> None:
    """Draw rows a second against each thing that was varied."""
    figure, many = plt.subplots(1, len(series), figsize=(12, 3.6), sharey=True, layout="constrained")
    for axes, (name, runs) in zip(many, series.items(), strict=True):
        places = range(len(runs))
        axes.plot(places, [run.rate for run in runs], marker="o", color="tab:blue")
        axes.set_xticks(list(places), [f"{getattr(run, name):,}" for run in runs])
        axes.set_xlabel(_LABELS[name])
        axes.grid(axis="y", alpha=0.4)
    many[0].set_ylabel("rows/s")
    many[0].set_ylim(0, 1.1 * max(run.rate for runs in series.values() for run in runs))
    figure.suptitle("A load's rate, one thing varied at a time")
    figure.savefig(file, dpi=110)
