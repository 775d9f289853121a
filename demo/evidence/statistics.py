"""Means with 95 % intervals for other captions like these, differences picture by picture, ranks and crossings.

Pictures of one caption resemble each other: captions count as the independent values, pictures do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rlg_core.resampling import interval, resamples
from rlg_core.statistics import Estimate, clustered


def by_caption(values: Sequence[float], captions: int | None = None) -> np.ndarray:
    """[captions, pictures] of values that come seed by seed; without `captions` each value is one of its own."""
    return np.reshape(values, (-1, captions or len(values))).T


def estimate(values: Sequence[float], captions: int | None = None) -> Estimate:
    return clustered(by_caption(values, captions))


def paired(after: Sequence[float], before: Sequence[float], captions: int | None = None) -> Estimate:
    """Mean of `after - before`, same caption and noise in each pair: the noise they share does not count."""
    return estimate(np.subtract(after, before), captions)


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0, ties at their mean."""
    data = np.asarray(values, dtype=np.float64)
    less = (data[:, None] > data[None]).sum(1)
    equal = (data[:, None] == data[None]).sum(1)
    return less + (equal - 1) / 2


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's; NaN where one of the two does not vary."""
    a, b = ranks(a), ranks(b)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else math.nan


def crossing(xs: Sequence[float], ys: Sequence[float], target: float) -> float:
    """The first x at which the line through the points is at `target` or above; infinite where it never is."""
    if ys[0] >= target:
        return xs[0]
    for (x0, y0), (x1, y1) in zip(zip(xs, ys), zip(xs[1:], ys[1:])):
        if y1 >= target:
            return x0 + (x1 - x0) * (target - y0) / (y1 - y0)
    return math.inf


def crossing_of_means(xs: Sequence[float], ys: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
    """Where the means of `ys` [captions, xs] first reach that of `targets` [captions], with a 95 % interval.

    Both are of the same captions and noise, which the resamples keep together. None stands for beyond the range.
    """
    drawn = [crossing(xs, ys[k].mean(0), targets[k].mean()) for k in resamples(len(targets))]
    found = (crossing(xs, ys.mean(0), targets.mean()), *interval(drawn))
    return {name: value if math.isfinite(value) else None for name, value in zip(("at", "low", "high"), found)}
