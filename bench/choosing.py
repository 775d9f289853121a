"""How much reward ways of choosing a scale lose: on simulated rewards, and on the demo pair's kept pictures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize_scalar

from demo.evidence.measure import Archive, Outcome
from demo.evidence.run import ARCHIVE
from demo.evidence.scores import CORRECT, SHIFT
from demo.evidence.statistics import by_caption
from rlg_core.schedule import Stages
from rlg_core.search import CONSTANT, search
from rlg_core.statistics import independent, wilson
from rlg_core.trials import Bounds, Trial

from .host import ROOT, say
from .report import table

TITLE = "Ways to choose a scale"
HOW = """What a way of choosing w in 0 to 4 loses: the best mean reward less that of the scale it chooses, with the
range of the mean reward as 1; mean and standard error of {runs} simulated rewards. A picture has a smooth error of its
own over w and a rough one, in the same unit. *Cubic, best three again* is the search of RLG Auto Scale, *smallest
within one standard error of that* the scale that is nearest to the base among those as good within error."""
HOW_DEMO = """The same on the demo pair's adapters: {trials} trials, {runs} times other prompts (prompts x pictures per
prompt), whose pictures are drawn from the ten per scale that the evidence keeps, between its scales by a cubic spline.
The truth is the mean of all ten; the unit is the range of the mean over all prompts. *scale* is what is chosen; *shift*
from the base's pictures and share of *right* scenes are those at that scale."""

HOW_BOUNDED = """With `max_shift` set to the mean shift of these prompts' pictures at w = {at:g}: the scale that RLG
Auto Scale chooses, with its standard error, and the share of runs whose pictures at that scale move farther than that
(the mean of all ten), with its 95 % interval (Wilson)."""

SCALES = np.round(np.arange(0.0, 4.005, 0.01), 2)
BOUNDS = Bounds(0.0, 4.0)
RUNS, TRIALS = 100, 8
BOUND_AT = 2.0
DEMO = ROOT / "docs" / "evidence" / ARCHIVE
ADAPTERS = ("brightness", "jpeg", "composition")
SWEPT = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
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


def losses(mean: np.ndarray, make: Callable[[np.random.Generator], Evaluate], seed: int, trials: int) -> dict:
    """What each way chooses and what it loses by that, all from the same noise."""
    found = {}
    for name, way in WAYS.items():
        at = round(way(make(np.random.default_rng(seed)), trials) * 100)
        found[name] = {"scale": SCALES[at], "loss": mean.max() - mean[at]}
    return found


def simulated(count: int, smooth: float, rough: float, trials: int, runs: int = RUNS) -> list[dict]:
    generator = np.random.default_rng(0)
    means = [(reward(generator), int(generator.integers(2**32))) for _ in range(runs)]
    return [losses(m, partial(pictures, m, count, smooth, rough), seed, trials) for m, seed in means]


class Kept:
    """The demo pair's pictures as the evidence keeps them: values [scales, prompts, pictures] of a sweep over w.

    Between the scales of the sweep the values of a picture lie on a cubic spline. Trials draw from its pictures with
    replacement.
    """

    def __init__(self, adapter: str):
        kept = Archive(DEMO).entries
        outcomes = {w: Outcome(**kept[f"CFG 1, RLG {adapter} {w:g} x 10"]["result"]) for w in SWEPT if w}
        outcomes[0.0] = Outcome(**kept["CFG 1 x 10"]["result"])
        self.adapter, self.outcomes = adapter, outcomes

    def over_scales(self, name: str) -> np.ndarray:
        """A value of every picture [SCALES, prompts, pictures]."""
        swept = [by_caption(self.outcomes[w].values[name], self.outcomes[w].captions) for w in SWEPT]
        return CubicSpline(SWEPT, swept)(SCALES)


def drawn(values: np.ndarray, shifts: np.ndarray, images: int, generator: np.random.Generator) -> Evaluate:
    """Trials of `images` pictures of each prompt out of `values` and `shifts` [SCALES, prompts, pictures]."""
    made: dict[int, np.ndarray] = {}

    def evaluate(stages: Stages, noise: int) -> Trial:
        if noise not in made:
            made[noise] = generator.integers(values.shape[2], size=(values.shape[1], images))
        at = round(stages.scales[0] * 100)
        scores, moved = (np.take_along_axis(of[at], made[noise], 1).ravel() for of in (values, shifts))
        return Trial(stages, tuple(scores), tuple(moved), noise=noise, images=images)

    return evaluate


def on_demo(kept: Kept, prompts: int, images: int, runs: int = 2 * RUNS) -> list[dict]:
    """As `simulated`, of the demo's own pictures, with what else changes at the scale that is chosen."""
    generator, found = np.random.default_rng(0), []
    values, right, shift = (kept.over_scales(name) for name in (kept.adapter, CORRECT, SHIFT))
    values /= np.ptp(values.mean((1, 2)))
    for _ in range(runs):
        chosen = generator.permutation(values.shape[1])[:prompts]
        make, seed = partial(drawn, values[:, chosen], shift[:, chosen], images), int(generator.integers(2**32))
        found.append(losses(values[:, chosen].mean((1, 2)), make, seed, TRIALS))
        for cell in found[-1].values():
            at = round(cell["scale"] * 100)
            cell |= {"right": right[at, chosen].mean(), "shift": shift[at, chosen].mean()}
    return found


def bounded(kept: Kept, prompts: int, images: int, runs: int = 2 * RUNS) -> list[tuple[float, bool]]:
    """What the pack's search chooses with the shift bounded to that at `BOUND_AT`, and whether the bound is broken."""
    generator, found = np.random.default_rng(0), []
    values, shifts = (kept.over_scales(name) for name in (kept.adapter, SHIFT))
    for _ in range(runs):
        chosen = generator.permutation(values.shape[1])[:prompts]
        truth = shifts[:, chosen].mean((1, 2))
        bounds = Bounds(0.0, 4.0, float(truth[round(BOUND_AT * 100)]))
        evaluate = drawn(values[:, chosen], shifts[:, chosen], images, generator)
        scale = search(evaluate, bounds, TRIALS, False).choice.stages.scales[0]
        found.append((scale, bool(truth[round(scale * 100)] > bounds.max_shift)))
    return found


def told_bounded(found: list[tuple[float, bool]]) -> tuple[str, str]:
    scale, broken = independent([scale for scale, _ in found]), sum(broken for _, broken in found)
    low, high = wilson(broken, len(found))
    share = f"{100 * broken / len(found):.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    return f"{scale.mean:.2f} ({scale.error:.2f})", share


def run() -> str:
    made = ((4, 1.5, 1.0), (16, 0.6, 0.3), (16, 1.5, 1.0), (108, 0.6, 0.3), (108, 1.5, 1.0))
    cells = [(trials, *cell) for trials in (8, 12) for cell in made]
    rows = [(*map(str, cell), *told(simulated(*cell[1:], cell[0]), "loss")) for cell in cells]
    head = ("trials", "pictures", "smooth error", "rough error", *WAYS)
    parts = [HOW.format(runs=RUNS), table(head, rows), HOW_DEMO.format(runs=2 * RUNS, trials=TRIALS)]
    rows, limits = [], []
    for adapter in ADAPTERS:
        kept = Kept(adapter)
        for prompts, images in ((1, 4), (4, 4), (27, 4)):
            say(f"choosing: {adapter}, {prompts} x {images}")
            found = on_demo(kept, prompts, images)
            start = (adapter, f"{prompts} x {images}")
            limits.append((*start, *told_bounded(bounded(kept, prompts, images))))
            rows += [(*start, what, *told(found, what)) for what in ("loss", "scale", "shift", "right")]
    parts += [table(("adapter", "pictures", "", *WAYS), rows), HOW_BOUNDED.format(at=BOUND_AT)]
    return "\n\n".join([*parts, table(("adapter", "pictures", "scale", "bound broken"), limits)])


def told(found: list[dict], what: str) -> list[str]:
    """The mean of each way, with its standard error."""
    estimates = [independent([run[way][what] for run in found]) for way in WAYS]
    return [f"{e.mean:.3f} ({e.error:.3f})" for e in estimates]
