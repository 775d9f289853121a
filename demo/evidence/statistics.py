"""Means with 95 % intervals for other captions like these, differences picture by picture, and rank correlation.

Pictures of one caption resemble each other: captions count as the independent values, pictures do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from rlg_core.statistics import Estimate, clustered

RESAMPLES = 2000


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


def bootstrap(groups: Sequence, statistic: Callable[[list], float], seed: int = 0) -> Estimate:
    """`statistic(groups)` with the half width of its 95 % interval over resampled groups (prompts, say)."""
    generator = np.random.default_rng(seed)
    drawn = [
        statistic([groups[k] for k in generator.integers(len(groups), size=len(groups))]) for _ in range(RESAMPLES)
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Estimate(statistic(list(groups)), float(high - low) / 2, len(groups))


def crossing(xs: Sequence[float], ys: Sequence[float], target: float) -> float:
    """The first x at which the line through the points reaches `target`; NaN where it never does."""
    for (x0, y0), (x1, y1) in zip(zip(xs, ys), zip(xs[1:], ys[1:])):
        if y0 != y1 and min(y0, y1) <= target <= max(y0, y1):
            return x0 + (x1 - x0) * (target - y0) / (y1 - y0)
    return math.nan


def crossing_of_means(xs: Sequence[float], ys: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Where the means of `ys` [captions, xs] first reach that of `targets` [captions], with a 95 % interval.

    The interval is by resampled captions; where some of them never reach it, it ends at infinity (as None).
    """
    generator = np.random.default_rng(0)
    drawn = generator.integers(len(targets), size=(RESAMPLES, len(targets)))
    found = [crossing(xs, ys[k].mean(0), targets[k].mean()) for k in drawn]
    ends = np.percentile(np.nan_to_num(found, nan=np.inf), [2.5, 97.5], method="nearest")
    at = crossing(xs, ys.mean(0), targets.mean())
    return {name: value if math.isfinite(value) else None for name, value in zip(("at", "low", "high"), (at, *ends))}
