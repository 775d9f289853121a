"""The numbers of docs/THEORY.md."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .exact import GRID, Mixture, Pair, Scale, divergence, expected, sampled, sde_variance, variance


def gaussian(mean: float, variance: float) -> Mixture:
    return Mixture((1.0,), (mean,), (variance**0.5,))


NORMAL = gaussian(0.0, 1.0)
NARROWED = Pair(NORMAL, gaussian(0.0, 0.5))
"""A quadratic reward."""

MODES = Pair(Mixture((0.5, 0.5), (-2.0, 2.0), (0.5, 0.5)), Mixture((0.2, 0.8), (-2.0, 2.0), (0.5, 0.5)))
"""A reward that prefers one of two modes."""

PAIRS = {
    "N(0, 1) to N(0, 1/2), a quadratic reward": NARROWED,
    "N(0, 1) to N(1, 1), a linear reward": Pair(NORMAL, gaussian(1.0, 1.0)),
    "two modes, 0.5 to 0.8 for one of them": MODES,
    "three modes, shifted, narrowed and reweighted": Pair(
        Mixture((0.4, 0.35, 0.25), (-2.5, 0.0, 2.5), (0.6, 0.6, 0.6)),
        Mixture((0.2, 0.35, 0.45), (-2.3, 0.2, 2.8), (0.5, 0.5, 0.5)),
    ),
}
DOSES = (2.0, 4.0)
SCALES = np.linspace(0.0, 4.0, 9)


@dataclass(frozen=True)
class Dose:
    """How far three rules for the tilt `n` of the pair `name` land from it: KL divergence in nats.

    `above_plain` is the schedule's reward (mean log ratio of the two densities) minus that of the constant scale with
    the same divergence from the base.
    """

    name: str
    n: float
    plain: float
    logarithmic: float
    schedule: float
    above_plain: float


def scheduled(n: float) -> Scale:
    """The scale over t that follows the tilt `n` of `NARROWED` exactly: from 2 n / (1 + n) in the noise to n."""

    def scale(t: float) -> float:
        rl, tilted = ((1.0 - t) ** 2 * data + t**2 for data in (0.5, 1.0 / (1.0 + n)))
        return 2.0 * n / (1.0 + n) * rl / tilted

    return scale


def doses() -> list[Dose]:
    return [_dose(name, pair, n) for name, pair in PAIRS.items() for n in DOSES]


def _dose(name: str, pair: Pair, n: float) -> Dose:
    aim, base = pair.tilted(n), pair.base.log_density(GRID)
    reward = pair.rl.log_density(GRID) - base
    made = [sampled(pair, scale) for scale in (n, float(np.log2(1.0 + n)), scheduled(n))]
    constant = [sampled(pair, w) for w in np.linspace(0.5, n, 6)]
    # Between scales the reward is all but linear in the root of the divergence: for a shift it is so exactly.
    there, known = (np.sqrt([divergence(p, base) for p in some]) for some in (made[2:], constant))
    plain = np.interp(there[0], known, [expected(p, reward) for p in constant])
    return Dose(name, n, *(divergence(p, aim) for p in made), expected(made[2], reward) - float(plain))


def exact_variance(w: float) -> float:
    return 1.0 / (1.0 + w)


def variances() -> dict[float, tuple[float, float, float]]:
    """Of `NARROWED`, by scale: the variance of the tilted density, of the ODE's samples and of the SDE's."""
    return {
        float(w): (exact_variance(w), variance(sampled(NARROWED, float(w))), sde_variance(1.0, 0.5, float(w)))
        for w in SCALES
    }


def divergences(scales: tuple[float, ...]) -> dict[float, float]:
    """Of `NARROWED`, by scale: KL divergence of the ODE's samples from the tilted density."""
    return {w: divergence(sampled(NARROWED, w), NARROWED.tilted(w)) for w in scales}


@dataclass(frozen=True)
class Mode:
    """The preferred mode of `MODES` at one scale: its weight and, in deviations, how far its mean is pushed out."""

    weight: float
    aimed: float
    pushed: float


def mode(w: float) -> Mode:
    above = (GRID > 0).astype(float)
    made, aim = sampled(MODES, w), MODES.tilted(w)
    weights = [expected(p, above) for p in (made, aim)]
    means = [expected(p, above * GRID) / weight for p, weight in zip((made, aim), weights)]
    return Mode(*weights, (means[0] - means[1]) / MODES.base.deviations[0])
