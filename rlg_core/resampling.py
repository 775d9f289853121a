"""What would have come out with other prompts: groups resampled with replacement, and what they say of a choice.

Pictures of one prompt stay together: the groups (prompts, captions) are resampled, not the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .statistics import LEVEL

RESAMPLES = 4000


def resamples(count: int, seed: int = 0) -> np.ndarray:
    """Indices [resamples, count] of `count` groups, drawn with replacement."""
    return np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The ends of the 95 % interval of a statistic over resamples; an end may be infinite."""
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(values, [tail, 100.0 - tail], method="nearest")
    return float(low), float(high)


def winners(table: np.ndarray) -> np.ndarray:
    """In which share of resamples each column of `table` [groups, candidates] has the highest mean."""
    best = table[resamples(len(table))].mean(1).argmax(1)
    return np.bincount(best, minlength=table.shape[1]) / RESAMPLES


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other one beats in one coordinate without losing in the other (the Pareto front)."""
    x, y = np.reshape(points, (-1, 2)).T
    as_good = (x[:, None] >= x) & (y[:, None] >= y)
    better = (x[:, None] > x) | (y[:, None] > y)
    return np.flatnonzero(~(as_good & better).any(0)).tolist()


def on_front(means: np.ndarray) -> np.ndarray:
    """In which share of resamples each point is on the front; `means` [points, 2, groups]."""
    held = np.zeros(len(means))
    for drawn in resamples(means.shape[2]):
        held[front(means[:, :, drawn].mean(2))] += 1
    return held / RESAMPLES
