"""Searches for the scale with the highest reward: few trials, each the mean of noisy and costly scores.

Five even scales are tried from the same noise (common random numbers), then the three around the best again from fresh
noise, as often as there are evaluations left. A cubic with an offset for each noise is fitted to all of them. Its
optimum is not the luckiest trial, and in simulation (`bench/choosing.py`) it loses less than that of Brent's method.
What is chosen is the smallest scale within one standard error of it: the less sure the best, the nearer to the base.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .errors import RLGError
from .schedule import Stages
from .statistics import Estimate, of_these, one_sided
from .trials import Bounds, Line, Peak, Trial

CONSTANT = "constant"
STAGES = ("early", "middle", "late")
EVEN = 5
AGAIN = 3
ATTEMPTS = 4
"""How often a scale whose shift turns out too large on fresh noise is replaced by a smaller one."""

Evaluate = Callable[[Stages, int], Trial]


@dataclass(frozen=True)
class Choice:
    """What a search found: `stages`, and how it does on fresh noise (`trial`) against the base there (`gain`).

    `peaks` are those of the fits, by line.
    """

    stages: Stages
    trial: Trial
    gain: Estimate
    peaks: dict[str, Peak]


class Search:
    """The trials so far, none made twice, and what they say."""

    def __init__(self, evaluate: Evaluate, bounds: Bounds):
        self.evaluate, self.bounds = evaluate, bounds
        self.trials: dict[tuple[Stages, int], Trial] = {}
        self.lines: dict[str, Line] = {}
        self.noises = 1
        self.choice: Choice | None = None

    def tried(self, stages: Stages, noise: int) -> Trial:
        if (stages, noise) not in self.trials:
            self.trials[stages, noise] = self.evaluate(stages, noise)
        return self.trials[stages, noise]

    def explore(self, name: str, evaluations: int, at: Callable[[float], Stages]) -> None:
        """Tries `at(scale)` at `evaluations` scales: even ones, then the best few of them from fresh noise."""
        line = self.lines[name] = Line(self.bounds, at)
        even = self.bounds.even(max(2, min(EVEN, evaluations)))
        for scale in even:
            line.add(scale, self.tried(at(scale), 0))
        left = evaluations - len(even)
        again = self._again(line, even)
        while left > 0:
            for scale in again[:left]:
                line.add(scale, self.tried(at(scale), self.noises))
            self.noises += 1
            left -= AGAIN

    def _again(self, line: Line, even: Sequence[float]) -> list[float]:
        """The best of the even scales and its neighbours, the better ones first."""
        reward = {scale: trial.reward for scale, trial in line.trials if trial.noise == 0}
        allowed = [scale for scale in even if self._keeps(scale)] or list(even)
        best = even.index(max(allowed, key=reward.__getitem__))
        first = min(max(best - 1, 0), max(len(even) - AGAIN, 0))
        return sorted(even[first : first + AGAIN], key=reward.__getitem__, reverse=True)

    # The bound

    def upper_shift(self, stages: Stages) -> float:
        """The upper limit of the mean shift at `stages`, from all noises together; its mean for a single picture."""
        found = [trial for (tried, _), trial in self.trials.items() if tried == stages and trial.shifts]
        images = sum(trial.images for trial in found)
        parts = [np.reshape(trial.shifts, (-1, trial.images)) for trial in found]
        return one_sided(of_these(np.concatenate(parts, 1).tolist())) if images else math.nan

    def _keeps(self, scale: float) -> bool:
        return self.allows(Stages.constant(scale))

    def allows(self, stages: Stages) -> bool:
        """Whether what is known of `stages` keeps the bound."""
        return self.bounds.max_shift <= 0 or not self.upper_shift(stages) > self.bounds.max_shift

    def _allowed(self, line: Line, slack: float) -> np.ndarray:
        """Which of the scales keep the bound, less `slack`, by straight lines between those tried."""
        scales = self.bounds.scales
        if self.bounds.max_shift <= 0:
            return np.full(len(scales), True)
        limits = {scale: self.upper_shift(trial.stages) for scale, trial in line.trials}
        limits = {scale: limit for scale, limit in sorted(limits.items()) if limit == limit}
        least = min(limits, key=limits.__getitem__)
        if limits[least] > self.bounds.max_shift:
            raise RLGError(
                f"No scale keeps the shift below max_shift = {self.bounds.max_shift:.4g}: the least was "
                f"{limits[least]:.4g} at scale {least:.4g}. Lower scale_min, or raise max_shift."
            )
        allowed = np.interp(scales, list(limits), list(limits.values())) <= self.bounds.max_shift - slack
        return allowed | (scales == least)

    # The choice

    def settle(self, name: str, final: int) -> tuple[Stages, Peak]:
        """What the line `name` chooses, tried from the noise `final`, and its peak."""
        line, slack = self.lines[name], 0.0
        for _ in range(ATTEMPTS):
            peak = line.peak(self._allowed(line, slack))
            trial = self.tried(line.at(peak.smallest), final)
            if self.allows(trial.stages):
                return trial.stages, peak
            # The shift rises less and less: a straight line to this trial is too low again, by less.
            slack += self.upper_shift(trial.stages) - self.bounds.max_shift
            line.add(peak.smallest, trial)
        kept = [(scale, trial) for scale, trial in line.trials if self.allows(trial.stages)]
        return max(kept, key=lambda pair: line.fitted(pair[0]))[1].stages, peak

    def conclude(self, stages: Stages, final: int, peaks: dict[str, Peak]) -> Choice:
        base, trial = (self.tried(s, final) for s in (Stages.constant(0.0), stages))
        self.choice = Choice(stages, trial, trial.over(base), peaks)
        return self.choice


def search(evaluate: Evaluate, bounds: Bounds, evaluations: int, by_stage: bool) -> Search:
    """Finds the best constant scale and then, with `by_stage`, the best scale of each third of the schedule in turn.

    Each third takes half of `evaluations`, but at least 4. What is found is tried once more from fresh noise, beside
    the base.
    """
    state = Search(evaluate, bounds)
    state.explore(CONSTANT, evaluations, Stages.constant)
    final, state.noises = state.noises, state.noises + 1
    state.tried(Stages.constant(0.0), final)
    stages, peak = state.settle(CONSTANT, final)
    peaks = {CONSTANT: peak}
    for stage, name in enumerate(STAGES) if by_stage else ():
        state.explore(name, max(4, evaluations // 2), partial(stages.with_stage, stage))
        stages, peaks[name] = state.settle(name, final)
    state.conclude(stages, final, peaks)
    return state
