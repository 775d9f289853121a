"""Searches for the scale with the highest reward: a bounded search over noisy, costly values.

Every scale is judged on the same starting noise (common random numbers), so two scales differ by what the scale does
and not by luck. The mean reward is then a smooth function of the scale, which Brent's method can refine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from scipy.optimize import minimize_scalar

from .errors import RLGError, require_number
from .schedule import Stages
from .statistics import mean_and_error

CONSTANT = "constant"
STAGES = ("early", "middle", "late")
STEP = 0.01
"""Grid of the scales that are tried: finer differences cannot be told apart."""


@dataclass(frozen=True)
class Trial:
    """The outcome at `stages`: one score per picture, and two mean distances.

    `shift` is the distance from the base's pictures, `diversity` that between the pictures of one prompt (NaN for one
    picture per prompt).
    """

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
    """Limits of a search: scales in [low, high], and a mean shift of at most `max_shift` from the base (0: no limit).

    Raises `RLGError` unless `low` is below `high`.
    """

    low: float
    high: float
    max_shift: float = 0.0

    def __post_init__(self) -> None:
        require_number("scale_min", self.low)
        require_number("scale_max", self.high)
        require_number("max_shift", self.max_shift, 0.0)
        if self.low >= self.high:
            raise RLGError(f"scale_min is {self.low}, scale_max {self.high}: expected scale_min to be the smaller.")

    def allows(self, trial: Trial) -> bool:
        return self.max_shift <= 0 or trial.shift <= self.max_shift


class Search:
    """The trials so far, none made twice, and which of them is best."""

    def __init__(self, evaluate: Evaluate, bounds: Bounds):
        self.evaluate, self.bounds = evaluate, bounds
        self.trials: dict[Stages, Trial] = {}
        self.lines: dict[str, dict[float, Trial]] = {}

    def tried(self, stages: Stages) -> Trial:
        if stages not in self.trials:
            self.trials[stages] = self.evaluate(stages)
        return self.trials[stages]

    def best(self) -> Trial:
        """The trial with the highest mean reward within the bounds. Raises `RLGError` if every trial moved too far."""
        allowed = [trial for trial in self.trials.values() if self.bounds.allows(trial)]
        if not allowed:
            least = min(self.trials.values(), key=lambda trial: trial.shift)
            raise RLGError(
                f"No scale keeps the shift below max_shift = {self.bounds.max_shift:.4g}: the least was "
                f"{least.shift:.4g} at scale {least.scale:.4g}. Lower scale_min, or raise max_shift."
            )
        return max(allowed, key=lambda trial: trial.reward)

    def maximise(self, name: str, evaluations: int, at: Callable[[float], Stages]) -> None:
        """Tries `at(scale)` at up to `evaluations` scales and keeps these trials under `name`.

        Half of the scales are evenly spaced over the bounds, both ends included. The rest come from Brent's bounded
        method around the best of those (`scipy.optimize.minimize_scalar`).
        """
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
        """The reward minus a steep, continuous penalty for any shift beyond the bound."""
        rewards = [trial.reward for trial in trials]
        steep = 10.0 * (max(rewards) - min(rewards) or 1.0)
        limit = self.bounds.max_shift

        def merit(trial: Trial) -> float:
            return trial.reward - (0.0 if self.bounds.allows(trial) else steep * (trial.shift / limit - 1.0))

        return merit

    def smallest_as_good(self) -> Trial:
        """The trial with the smallest constant scale that is as good as the best one, or the best one itself.

        As good means within one standard error, both taken from the differences picture by picture.
        """
        best = self.best()
        constant = self.lines[CONSTANT].values()
        return min((trial for trial in (best, *constant) if _as_good(trial, best)), key=lambda trial: abs(trial.scale))


def _as_good(trial: Trial, best: Trial) -> bool:
    difference, error = mean_and_error([b - a for a, b in zip(trial.scores, best.scores)])
    return difference <= (0.0 if math.isnan(error) else error)


def search(evaluate: Evaluate, bounds: Bounds, evaluations: int, by_stage: bool) -> Search:
    """Finds the best constant scale and then, with `by_stage`, the best scale of each third of the schedule in turn.

    Each third takes half of `evaluations`, but at least 4.
    """
    state = Search(evaluate, bounds)
    state.maximise(CONSTANT, evaluations, Stages.constant)
    for stage, name in enumerate(STAGES) if by_stage else ():
        start = state.best().stages
        state.maximise(name, max(4, evaluations // 2), partial(start.with_stage, stage))
    return state
