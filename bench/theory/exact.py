"""RLG on mixtures of Gaussians in one dimension, whose scores are known: its samples, and the density it aims at.

The path is that of flow models: `x_t = (1 - t) x_0 + t eps`, from noise at t = 1 to data at t = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

Scale = float | Callable[[float], float]
STEPS = 400
GRID = np.linspace(-14.0, 14.0, 7001)
HALF_LOG_TAU = 0.5 * np.log(2.0 * np.pi)


@dataclass(frozen=True)
class Mixture:
    """Gaussians with `weights`, `means` and `deviations`."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    def _parts(self, x: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log joint density [n, k] of `x` [n] and component at `t`, and the components' means and variances."""
        mean, variance = (1.0 - t) * np.array(self.means), ((1.0 - t) * np.array(self.deviations)) ** 2 + t**2
        exponent = -0.5 * (x[:, None] - mean) ** 2 / variance
        return np.log(self.weights) - HALF_LOG_TAU - 0.5 * np.log(variance) + exponent, mean, variance

    def log_density(self, x: np.ndarray) -> np.ndarray:
        return logsumexp(self._parts(x, 0.0)[0], axis=1)

    def score(self, x: np.ndarray, t: float) -> np.ndarray:
        """Gradient of the log density of `x_t`."""
        joint, mean, variance = self._parts(x, t)
        share = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        return (share * (mean - x[:, None]) / variance).sum(1)

    def velocity(self, x: np.ndarray, t: float) -> np.ndarray:
        """`E[eps - x_0 | x_t = x]`."""
        if t == 1.0:
            return x - np.dot(self.weights, self.means)
        return -(x + t * self.score(x, t)) / (1.0 - t)


@dataclass(frozen=True)
class Pair:
    base: Mixture
    rl: Mixture

    def velocity(self, x: np.ndarray, t: float, scale: Scale) -> np.ndarray:
        """RLG's: `base + w (rl - base)`."""
        w = scale(t) if callable(scale) else scale
        base = self.base.velocity(x, t)
        return base + w * (self.rl.velocity(x, t) - base)

    def tilted(self, n: float) -> np.ndarray | None:
        """Log density on `GRID` proportional to `base^(1 - n) rl^n`, or None where that cannot be normalised."""
        exponent = self.base.log_density(GRID) + n * (self.rl.log_density(GRID) - self.base.log_density(GRID))
        if max(exponent[0], exponent[-1]) > exponent.max() - 5.0:
            return None
        return exponent - np.log(np.trapezoid(np.exp(exponent), GRID))


def sampled(pair: Pair, scale: Scale, steps: int = STEPS) -> np.ndarray:
    """Log density on `GRID` of what Euler's method makes of normal noise; -inf where it leads to no sample.

    In one dimension the map from noise to sample is monotone: its slope turns the density of the noise into theirs.
    """
    noise = np.linspace(-7.0, 7.0, 2001)
    x, times = noise.copy(), np.linspace(1.0, 0.0, steps + 1)
    for t, after in zip(times[:-1], times[1:]):
        x = x + (after - t) * pair.velocity(x, t, scale)
    log_density = -0.5 * noise**2 - HALF_LOG_TAU - np.log(np.gradient(x, noise))
    return np.interp(GRID, x, log_density, left=-np.inf, right=-np.inf)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL divergence, in nats, of log densities on `GRID`."""
    there = np.isfinite(p)
    p = np.where(there, p, -800.0)
    return float(np.trapezoid(np.exp(p) * np.where(there, p - q, 0.0), GRID))


def expected(p: np.ndarray, values: np.ndarray) -> float:
    """Mean of `values` on `GRID` under the log density `p`."""
    return float(np.trapezoid(np.exp(p) * values, GRID) / np.trapezoid(np.exp(p), GRID))


def variance(p: np.ndarray) -> float:
    return expected(p, (GRID - expected(p, GRID)) ** 2)


def sde_variance(base: float, rl: float, w: float, steps: int = STEPS) -> float:
    """Variance after Euler-Maruyama along the memoryless SDE (`sigma_t^2 = 2 t / (1 - t)`) between centred Gaussians.

    `base` and `rl` are the variances of the data. The drift is linear in x, so the variance has a recursion.
    """
    total, times = 1.0, np.linspace(1.0, 0.0, steps + 1)
    for t, after in zip(times[:-1], times[1:]):
        at = t if t < 1.0 else (t + after) / 2.0
        noise = 2.0 * at / (1.0 - at)
        marginals = [(1.0 - at) ** 2 * data + at**2 for data in (base, rl)]
        score = -((1.0 - w) / marginals[0] + w / marginals[1])
        drift = -(1.0 + at * score) / (1.0 - at) - noise / 2.0 * score
        total = (1.0 + (after - t) * drift) ** 2 * total + noise * (t - after)
    return total
