"""Means with 95 % confidence intervals, differences picture by picture, and rank correlation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.96
"""Half width of a 95 % interval in standard errors."""

RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean and the half width of its 95 % confidence interval, from `n` values."""

    mean: float
    half: float
    n: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves 0 out, else 0."""
        return 0 if math.isnan(self.half) or abs(self.mean) <= self.half else (1 if self.mean > 0 else -1)


def estimate(values: Sequence[float]) -> Estimate:
    data = np.asarray(values, dtype=np.float64)
    half = Z * data.std(ddof=1) / math.sqrt(len(data)) if len(data) > 1 else math.nan
    return Estimate(float(data.mean()), float(half), len(data))


def paired(after: Sequence[float], before: Sequence[float]) -> Estimate:
    """Mean of `after - before`, same prompt and noise in each pair: the noise they share does not count."""
    return estimate(np.subtract(after, before))


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
