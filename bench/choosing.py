"""How much reward ways of choosing a scale lose, on simulated rewards: `python -m bench.choosing`.

A way gets scores of pictures, each with a smooth error of its own over the scale and a rough one, and 8 or 12 trials.
What it loses is the best mean reward less that of the scale it chooses, with the range of the mean reward as 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.optimize import minimize_scalar

from rlg_core.schedule import Stages
from rlg_core.search import CONSTANT, search
from rlg_core.trials import Bounds, Trial

SCALES = np.round(np.arange(0.0, 4.005, 0.01), 2)
BOUNDS = Bounds(0.0, 4.0)
RUNS = 100
Evaluate = Callable[[Stages, int], Trial]


def reward(generator: np.random.Generator) -> np.ndarray:
    """A mean reward over the scales: a peak, a lopsided one, saturation with and without a fall."""
    peak = generator.uniform(0.3, 4.0)
    kinds = (
        lambda: -((SCALES - peak) ** 2),
        lambda: -np.where(peak > SCALES, 1.0, 2.5) * (SCALES - peak) ** 2,
        lambda: -np.exp(-SCALES / generator.uniform(0.3, 1.2)) - 0.15 * np.maximum(0.0, SCALES - peak) ** 2,
        lambda: -np.exp(-SCALES / generator.uniform(0.5, 2.0)),
        lambda: np.tanh(SCALES) - generator.uniform(0.0, 0.35) * SCALES,
    )
    values = kinds[generator.integers(len(kinds))]()
    return (values - values.min()) / np.ptp(values)


def root(width: float) -> np.ndarray:
    """Turns white noise into noise that is smooth over `width` of the scale."""
    covariance = np.exp(-((SCALES[:, None] - SCALES) ** 2) / (2.0 * width**2))
    return np.linalg.cholesky(covariance + 1e-6 * np.eye(len(SCALES)))


SMOOTH, ROUGH = root(0.8), root(0.2)


def pictures(mean: np.ndarray, count: int, smooth: float, rough: float, generator: np.random.Generator) -> Evaluate:
    """Trials of `count` pictures, the same ones for all scales of a noise."""
    made: dict[int, np.ndarray] = {}

    def evaluate(stages: Stages, noise: int) -> Trial:
        if noise not in made:
            white = generator.normal(size=(2, len(SCALES), count))
            made[noise] = smooth * (SMOOTH @ white[0]) + rough * (ROUGH @ white[1])
        at = round(stages.scales[0] * 100)
        return Trial(stages, tuple(mean[at] + made[noise][at]), noise=noise)

    return evaluate


def fitted(evaluate: Evaluate, trials: int) -> float:
    """The optimum of the pack's own search."""
    return search(evaluate, BOUNDS, trials, False).choice.peaks[CONSTANT].best


def smallest(evaluate: Evaluate, trials: int) -> float:
    """What the pack's own search chooses: the smallest scale within one standard error of that."""
    return search(evaluate, BOUNDS, trials, False).choice.stages.scales[0]


def brent(evaluate: Evaluate, trials: int) -> float:
    """Half of the trials evenly, then Brent's bounded method around the best, all from one noise; the best trial."""
    seen: dict[float, float] = {}

    def cost(scale: float) -> float:
        scale = round(scale, 2)
        seen[scale] = evaluate(Stages.constant(scale), 0).reward
        return -seen[scale]

    even = BOUNDS.even(-(-trials // 2))
    best = int(np.argmin([cost(scale) for scale in even]))
    ends = (even[max(best - 1, 0)], even[min(best + 1, len(even) - 1)])
    options = {"maxiter": trials - len(even), "xatol": 0.01}
    minimize_scalar(cost, bounds=ends, method="bounded", options=options)
    return max(seen, key=seen.__getitem__)


def best_two(evaluate: Evaluate, trials: int) -> float:
    """Five even scales, then the best two of them from fresh noise for the rest; the better mean."""
    even = [evaluate(Stages.constant(scale), 0) for scale in BOUNDS.even(5)]
    best = sorted(even, key=lambda trial: trial.reward)[-2:]
    means = [
        np.mean([t.reward, *(evaluate(t.stages, k).reward for k in range(1, (trials - 5) // 2 + 1))]) for t in best
    ]
    return best[int(np.argmax(means))].scale


def quadratic(evaluate: Evaluate, trials: int) -> float:
    """All trials evenly from one noise; the optimum of a parabola."""
    even = BOUNDS.even(trials)
    fit = np.polyfit(even, [evaluate(Stages.constant(scale), 0).reward for scale in even], 2)
    return float(SCALES[np.argmax(np.polyval(fit, SCALES))])


WAYS = {
    "Brent": brent,
    "best two again": best_two,
    "parabola": quadratic,
    "cubic, best three again": fitted,
    "smallest within one standard error of that": smallest,
}


def losses(count: int, smooth: float, rough: float, trials: int, runs: int = RUNS) -> dict[str, list[float]]:
    generator, found = np.random.default_rng(0), {name: [] for name in WAYS}
    for _ in range(runs):
        mean = reward(generator)
        seed = generator.integers(2**32)
        for name, way in WAYS.items():
            make = partial(pictures, mean, count, smooth, rough)
            chosen = way(make(np.random.default_rng(seed)), trials)
            found[name].append(1.0 - mean[round(chosen * 100)])
    return found


def main() -> None:
    print("pictures, smooth and rough error, trials: mean loss and its standard error")
    for trials in (8, 12):
        for count, smooth, rough in ((4, 1.5, 1.0), (16, 0.6, 0.3), (16, 1.5, 1.0), (108, 0.6, 0.3), (108, 1.5, 1.0)):
            found = losses(count, smooth, rough, trials)
            told = (f"{name} {np.mean(v):.4f} ({np.std(v) / len(v) ** 0.5:.4f})" for name, v in found.items())
            print(f"{count}, {smooth}, {rough}, {trials}: " + "; ".join(told), flush=True)


if __name__ == "__main__":
    main()
