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


def plot_models(saturations: Sequence[Any], write_backs: Sequence[tuple[Any, ...]], file: Path) -> None:
    """Draw the time of calls beside the ideal, and the rate of the write-back beside that of COPY."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained")
    names = [found.name.replace(" of ", "\nof ") for found in saturations]
    _draw_pairs(
        left,
        names,
        [(found.ideal_seconds, found.seconds) for found in saturations],
        ("ideal: calls x latency / slots", "taken, first to last call"),
    )
    left.set(ylabel="seconds", title="A server of models, kept busy")
    _draw_pairs(
        right,
        [f"{dimensions:,} dimensions" for dimensions, *_ in write_backs],
        [(limit, rate) for _, limit, rate, _ in write_backs],
        ("COPY into a table of two columns", "write-back"),
    )
    right.set(ylabel="records/s", title="Embeddings written back, one connection")
    figure.savefig(file, dpi=110)


def _draw_pairs(
    axes: plt.Axes, names: Sequence[str], pairs: Sequence[tuple[float, float]], labels: tuple[str, str]
) -> None:
    places = range(len(pairs))
    axes.bar(
        [place - 0.2 for place in places], [pair[0] for pair in pairs], 0.38, label=labels[0], color="0.75"
    )
    bars = axes.bar(
        [place + 0.2 for place in places],
        [pair[1] for pair in pairs],
        0.38,
        label=labels[1],
        color="tab:blue",
    )
    axes.bar_label(bars, labels=[f"{pair[1] / pair[0]:.2f}" for pair in pairs], padding=2)
    axes.set_xticks(list(places), names)
    axes.margins(y=0.25)
    axes.legend()
