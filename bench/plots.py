"""The plots beside RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # after the backend

from .budgets import Errors
from .sweeps import Sweep
from .ways import PLAIN

LEAST = 1e-5
"""Errors below a thousandth of a percent are drawn there."""


def cost_growth(sweeps: Sequence[Sweep], path: Path) -> None:
    """Seconds a step above, ratio to plain CFG below; a column a sweep."""
    figure, axes = plt.subplots(2, len(sweeps), figsize=(11, 8), squeeze=False, layout="constrained")
    for column, sweep in enumerate(sweeps):
        for name, seconds in sweep.seconds.items():
            axes[0][column].plot(sweep.values, [1000 * s for s in seconds], marker="o", label=name)
            if name != PLAIN.name:
                axes[1][column].plot(
                    sweep.values,
                    sweep.ratios(name),
                    marker="o",
                    label=name,
                    color=f"C{list(sweep.seconds).index(name)}",
                )
        for axis in axes[:, column]:
            axis.set_xscale("log", base=2)
            axis.set_xticks(sweep.values, [str(value) for value in sweep.values])
            axis.set_xlabel(sweep.axis)
            axis.grid(alpha=0.3)
        axes[0][column].set_yscale("log", base=2)
        axes[0][column].yaxis.set_major_formatter("{x:g}")
        axes[0][column].set_ylabel("ms per step")
        axes[1][column].set_ylabel("times plain CFG")
        axes[1][column].set_ylim(bottom=1)
        axes[1][column].axhline(2, color="grey", linewidth=0.8, linestyle="--")
    _legend_below(figure, axes[0][0], columns=3)
    figure.suptitle("Cost of a step, small SD3 stack, CFG 4.5")
    _save(figure, path)


def error_against_cost(budgets: Mapping[float, Mapping[str, Errors]], path: Path) -> None:
    """Median error (dot) and 90th percentile (bar) of each mode against its cost; a panel a scale."""
    figure, axes = plt.subplots(
        1, len(budgets), figsize=(4.6 * len(budgets), 5), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, (scale, modes) in zip(axes[0], budgets.items()):
        for number, (mode, errors) in enumerate(modes.items()):
            median, tail = max(errors.median, LEAST), max(errors.tail, LEAST)
            bar = [[0], [100 * (tail - median)]]
            axis.errorbar([errors.median_cost], [100 * median], bar, fmt="o", capsize=3, label=mode, color=f"C{number}")
        axis.set_title(f"w = {scale:g}")
        axis.set_yscale("log")
        axis.set_xlabel("model evaluations, times plain CFG")
        axis.grid(alpha=0.3)
        axis.yaxis.set_major_formatter("{x:g}")
    axes[0][0].set_ylabel("error of the final latent, %")
    figure.suptitle("Error against cost (dot: median, bar: up to the 90th percentile)")
    _legend_below(figure, axes[0][0], columns=5)
    _save(figure, path)


def _legend_below(figure: plt.Figure, axis: plt.Axes, columns: int) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=8)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=110)
    plt.close(figure)
