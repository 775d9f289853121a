"""The scale that a reward likes best: a bounded search over noisy, costly values.

Every scale is judged on the same starting noise (common random numbers), so that two scales differ by what the scale
does and not by luck; what is maximised is then a smooth function of the scale, and Brent's method may refine it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from scipy.optimize import minimize_scalar

from .errors import RLGError
from .report.plot import number
from .schedule import Stages
from .statistics import mean_and_error

CONSTANT = "constant"
STAGES = ("early", "middle", "late")
STEP = 0.01
"""Scales are tried on this grid: finer ones cannot be told apart."""


@dataclass(frozen=True)
class Trial:
    """What came out at `stages`: one score a picture, the mean distance from the base's pictures, and the mean distance
    between the pictures of one prompt (NaN for one picture a prompt)."""

    stages: Stages
    scores: tuple[float, ...]
    shift: float = 0.0
    diversity: float = math.nan

    @property
    def scale(self) -> float:
        return self.stages.scales[0]

    @property
    def is_constant(self) -> bool:
        return len(set(self.stages.scales)) == 1

    @property
    def reward(self) -> float:
        return mean_and_error(self.scores)[0]

    @property
    def error(self) -> float:
        return mean_and_error(self.scores)[1]


Evaluate = Callable[[Stages], Trial]


@dataclass(frozen=True)
class Bounds:
    """Scales in [low, high]; the mean shift from the base at most `max_shift`, where that is above 0."""

    low: float
    high: float
    max_shift: float = 0.0

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise RLGError(f"scale_min is {self.low}, scale_max {self.high}: expected scale_min to be the smaller.")

    def allows(self, trial: Trial) -> bool:
        return self.max_shift <= 0 or trial.shift <= self.max_shift


class Search:
    """Trials so far, none made twice, and which of them is best."""

    def __init__(self, evaluate: Evaluate, bounds: Bounds):
        self.evaluate, self.bounds = evaluate, bounds
        self.trials: dict[Stages, Trial] = {}
        self.lines: dict[str, dict[float, Trial]] = {}

    def tried(self, stages: Stages) -> Trial:
        if stages not in self.trials:
            self.trials[stages] = self.evaluate(stages)
        return self.trials[stages]

    def best(self) -> Trial:
        """The highest mean reward within the bounds. Raises `RLGError` where every trial moved too far."""
        allowed = [trial for trial in self.trials.values() if self.bounds.allows(trial)]
        if not allowed:
            least = min(self.trials.values(), key=lambda trial: trial.shift)
            raise RLGError(
                f"No scale keeps the shift below max_shift = {number(self.bounds.max_shift)}: the least was "
                f"{number(least.shift)} at scale {number(least.scale)}. Lower scale_min, or raise max_shift."
            )
        return max(allowed, key=lambda trial: trial.reward)

    def maximise(self, name: str, evaluations: int, at: Callable[[float], Stages]) -> None:
        """Tries `at(scale)` along a line of scales, kept under `name`: half of them evenly spread with both ends, the
        rest by Brent's method around the best of those (`scipy.optimize.minimize_scalar`, bounded)."""
        line = self.lines.setdefault(name, {})

        def trial(scale: float) -> Trial:
            scale = round(round(scale / STEP) * STEP, 6)
            line[scale] = self.tried(at(scale))
            return line[scale]

        low, high = self.bounds.low, self.bounds.high
        count = max(2, evaluations if evaluations < 4 else math.ceil(evaluations / 2))
        grid = [low + (high - low) * k / (count - 1) for k in range(count)]
        merit = self._merit([trial(scale) for scale in grid])
        centre = max(range(count), key=lambda k: merit(trial(grid[k])))
        bracket = (grid[max(centre - 1, 0)], grid[min(centre + 1, count - 1)])
        if evaluations > count:
            minimize_scalar(
                lambda scale: -merit(trial(scale)),
                bounds=bracket,
                method="bounded",
                options={"maxiter": evaluations - count, "xatol": STEP},
            )

    def _merit(self, trials: Sequence[Trial]) -> Callable[[Trial], float]:
        """The reward, less a steep and continuous penalty for shift beyond the bound."""
        rewards = [trial.reward for trial in trials]
        steep = 10.0 * (max(rewards) - min(rewards) or 1.0)
        limit = self.bounds.max_shift

        def merit(trial: Trial) -> float:
            return trial.reward - (0.0 if self.bounds.allows(trial) else steep * (trial.shift / limit - 1.0))

        return merit

    def smallest_as_good(self) -> Trial:
        """The trial of the smallest constant scale whose reward is within one standard error of the best one's, by
        differences picture for picture."""
        best = self.best()
        constant = self.lines[CONSTANT].values()
        return min((trial for trial in (best, *constant) if _as_good(trial, best)), key=lambda trial: abs(trial.scale))


def _as_good(trial: Trial, best: Trial) -> bool:
    difference, error = mean_and_error([b - a for a, b in zip(trial.scores, best.scores)])
    return difference <= (0.0 if math.isnan(error) else error)


def search(evaluate: Evaluate, bounds: Bounds, evaluations: int, by_stage: bool) -> Search:
    """Finds the best constant scale, and from there, with `by_stage`, the best scale of each third of the schedule in
    turn (half of `evaluations` for each)."""
    state = Search(evaluate, bounds)
    state.maximise(CONSTANT, evaluations, Stages.constant)
    for stage, name in enumerate(STAGES) if by_stage else ():
        start = state.best().stages
        state.maximise(name, max(4, evaluations // 2), partial(start.with_stage, stage))
    return state
