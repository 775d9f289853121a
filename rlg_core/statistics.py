"""Means with confidence intervals that say of what: of these prompts, or of others like them.

Pictures of one prompt resemble each other. An interval over *these* prompts leaves the spread between them out
(`stratified`); one over *other* prompts counts each prompt once (`clustered`). Taking all pictures for independent is
neither, and as a rule too narrow for the second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.95


def quantile(degrees: float, level: float = LEVEL) -> float:
    """Half the width of a two-sided interval in standard errors, by Student's t."""
    return float(stdtrit(degrees, 0.5 + level / 2.0)) if degrees > 0 else math.nan


@dataclass(frozen=True)
class Estimate:
    """A mean of `n` independent values, the half width of its 95 % interval and the degrees of freedom of that."""

    mean: float
    half: float
    n: int
    degrees: float = math.inf

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves 0 out, else 0."""
        return 0 if math.isnan(self.half) or abs(self.mean) <= self.half else (1 if self.mean > 0 else -1)

    @property
    def error(self) -> float:
        """The standard error."""
        return self.half / quantile(self.degrees)

    @property
    def p_value(self) -> float:
        """The two-sided probability of a mean this far from 0 if 0 is true; 1 where no interval is known."""
        if math.isnan(self.half):
            return 1.0
        return float(2.0 * stdtr(self.degrees, -abs(self.mean) / self.error)) if self.half else float(self.mean == 0)


def from_error(mean: float, error: float, n: int, degrees: float) -> Estimate:
    return Estimate(float(mean), float(error) * quantile(degrees), n, degrees)


def independent(values: Sequence[float]) -> Estimate:
    """Of values that have nothing in common; the interval is NaN for a single one."""
    data = np.asarray(values, dtype=np.float64)
    error = data.std(ddof=1) / math.sqrt(len(data)) if len(data) > 1 else math.nan
    return from_error(data.mean(), error, len(data), len(data) - 1)


def clustered(groups: Sequence[Sequence[float]]) -> Estimate:
    """Of *other* groups of the same kind: the groups' means are the values, with one degree of freedom fewer."""
    return independent([np.mean(group) for group in groups])


def stratified(groups: Sequence[Sequence[float]]) -> Estimate:
    """Of *these* groups, each with the same weight; only the spread within them counts.

    The interval is NaN where no group has two values.
    """
    data = [np.asarray(group, dtype=np.float64) for group in groups]
    degrees = sum(len(group) - 1 for group in data)
    mean, n = np.mean([group.mean() for group in data]), sum(map(len, data))
    if degrees == 0:
        return from_error(mean, math.nan, n, 0)
    within = sum(((group - group.mean()) ** 2).sum() for group in data) / degrees
    return from_error(mean, math.sqrt(within * sum(1.0 / len(group) for group in data)) / len(data), n, degrees)


def of_these(groups: Sequence[Sequence[float]]) -> Estimate:
    """`stratified`, or where every group has one value, as good as can be had: the groups taken for a sample."""
    return stratified(groups) if any(len(group) > 1 for group in groups) else clustered(groups)


def one_sided(estimate: Estimate) -> float:
    """The upper end of the one-sided 95 % interval, or the mean where there is no interval."""
    if math.isnan(estimate.half):
        return estimate.mean
    return estimate.mean + estimate.error * quantile(estimate.degrees, 2.0 * LEVEL - 1.0)


def holm(p_values: Sequence[float], level: float = 1.0 - LEVEL) -> list[bool]:
    """Which of several tests hold together: with probability `1 - level` none of them by chance (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    held = [False] * len(p_values)
    for rank, k in enumerate(order):
        if p_values[k] > level / (len(p_values) - rank):
            break
        held[k] = True
    return held


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """`mean(above) / mean(below)` of paired values, and the ends of its 95 % interval (Fieller's theorem).

    The ends are infinite where `mean(below)` cannot be told from 0: then any ratio may be true.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (above, below))
    n = len(a)
    if n < 2:
        return float(a.mean() / b.mean()), -math.inf, math.inf
    cover = np.cov(a, b) / n * quantile(n - 1) ** 2
    square, mixed, free = b.mean() ** 2 - cover[1, 1], a.mean() * b.mean() - cover[0, 1], a.mean() ** 2 - cover[0, 0]
    if square <= 0:
        return float(a.mean() / b.mean()), -math.inf, math.inf
    half = math.sqrt(max(mixed**2 - square * free, 0.0)) / square
    return float(a.mean() / b.mean()), mixed / square - half, mixed / square + half


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The ends of the 95 % interval of a share of which `hits` of `n` were seen (Wilson 1927)."""
    z2 = quantile(math.inf) ** 2
    centre, share = (hits + z2 / 2.0) / (n + z2), hits / n
    half = math.sqrt(z2) / (n + z2) * math.sqrt(n * share * (1.0 - share) + z2 / 4.0)
    return max(0.0, centre - half), min(1.0, centre + half)
