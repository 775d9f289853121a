"""Fewer model evaluations at a measured error: which steps skip the base, and what takes its place there.

On a skipped step the base is read off the RL model as `v_base = v_rl - d`. The difference `d = v_rl - v_base` is
extrapolated from earlier steps. `v` is the velocity `(x - denoised) / t` of the flow `x = (1 - t) x_0 + t eps`. For
models of the noise `t = sigma / (1 + sigma)`, in which differences run far straighter than in sigma.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .combine import Weight
from .errors import RLGError, require_number, require_one_of, require_whole

EVALUATE = ("exact", "linearised", "segmented")
EXPERTS = ("exact", "merged")
BATCHING = ("auto", "batched", "sequential")
TIME_SHARE = 0.3
"""Fraction of the refresh spacing that follows the time t rather than the step index.

Found on the demo pair, where 0 (every k-th step) has five times the error.
"""


@dataclass(frozen=True)
class Budget:
    """How many evaluations a run may save. The defaults evaluate every model at every step.

    `evaluate`: `exact`; `linearised`, one evaluation of the base with the RL terms at strength w; or `segmented`
    (arXiv 2603.20584), RLG without CFG inside the window and the RL model with CFG outside. `experts`: `exact`, or
    `merged`, all experts' terms in one evaluation (after Diffusion Blend, arXiv 2505.18547).

    Raises `RLGError` for unknown values and for settings that contradict each other.
    """

    evaluate: str = "exact"
    refresh_every: int = 1
    tolerance: float = 0.0
    batching: str = "auto"
    experts: str = "exact"

    def __post_init__(self) -> None:
        for name, known in (("evaluate", EVALUATE), ("batching", BATCHING), ("experts", EXPERTS)):
            require_one_of(name, getattr(self, name), known)
        require_whole("refresh_every", self.refresh_every, 1)
        require_number("tolerance", self.tolerance, 0.0)
        if self.tolerance > 0 and self.refresh_every < 2:
            raise RLGError(
                "tolerance chooses gaps of up to refresh_every steps: expected refresh_every to be 2 or more."
            )
        if self.evaluate != "exact" and self.refresh_every > 1:
            raise RLGError(
                f"{self.evaluate} has no base evaluations to skip, so there is nothing to refresh: expected "
                "refresh_every 1."
            )

    @property
    def is_linearised(self) -> bool:
        return self.evaluate == "linearised"

    @property
    def is_segmented(self) -> bool:
        return self.evaluate == "segmented"

    @property
    def merges_experts(self) -> bool:
        return self.experts == "merged"


@dataclass
class _Track:
    """The last two differences seen on one trajectory, oldest first, and the gap in steps to the next refresh."""

    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    differences: list[Tensor] = field(default_factory=list)
    gap: int = 1

    def extrapolated(self, time: float) -> Tensor:
        """The difference at `time`: linear in it through the last two, or the latest if there is only one."""
        latest = self.differences[-1]
        if len(self.differences) < 2:
            return latest
        slope = (time - self.times[-1]) / (self.times[-1] - self.times[-2])
        return latest + slope * (latest - self.differences[-2])

    def add(self, step: int, time: float, difference: Tensor) -> None:
        self.steps, self.times = [*self.steps[-1:], step], [*self.times[-1:], time]
        self.differences = [*self.differences[-1:], difference]


def refresh_steps(times: Sequence[float], every: int) -> frozenset[int]:
    """The indices of about one step in `every`, always including the first and the last.

    `times` are those of the steps: decreasing, all above 0. The refreshes are spread evenly over a path that mixes step
    index and time. The state moves by `velocity * dt`, so an error in the difference costs most where t falls fast.
    """
    last = len(times) - 1
    if last < 1:
        return frozenset({0})
    fallen = [(times[0] - time) / (times[0] - times[-1]) for time in times]
    path = [(1.0 - TIME_SHARE) * step / last + TIME_SHARE * fall for step, fall in enumerate(fallen)]
    count = max(len(times) // every, 2)
    targets = [k / (count - 1) for k in range(count)]
    return frozenset(min(range(len(path)), key=lambda step: abs(path[step] - target)) for target in targets)


class DifferenceExtrapolation:
    """Extrapolates `v_rl - v_base` between evaluations of the base, on each trajectory of a run.

    The key of a trajectory holds whatever makes two calls comparable (prompt, shape, window). A step that does not
    come after the last one (the sampler restarted) begins the trajectory anew.
    """

    def __init__(self, budget: Budget, times: Sequence[float]):
        self.budget = budget
        self.last = len(times) - 1
        self.refreshes = refresh_steps(times, budget.refresh_every)
        self.tracks: dict[Hashable, _Track] = {}

    def predicted(self, key: Hashable, step: int, time: float) -> Tensor | None:
        """The difference to use at `step`, or None if the base has to be evaluated."""
        track = self.tracks.get(key)
        if track is None or step <= track.steps[-1]:
            return None
        if self.budget.tolerance > 0:
            # The last step is never skipped: no later step would correct its error.
            due = step - track.steps[-1] >= track.gap or step == self.last
        else:
            due = any(track.steps[-1] < refresh <= step for refresh in self.refreshes)
        return None if due else track.extrapolated(time)

    def observe(
        self, key: Hashable, step: int, time: float, difference: Tensor, velocity: Tensor, weight: Weight, pictures: int
    ) -> Tensor | None:
        """Records an evaluated difference. Returns how far off it was, or None if no step before was skipped.

        `difference` and the RL model's `velocity` [prompts * pictures, ...] are evaluated at `step`. The result
        [pictures] is the error that the extrapolation would have made in the predictions, `|(1 - w) (predicted -
        difference)| / |velocity|`, where w is the sum of all experts' weights, with Euclidean norms over all prompts of
        a picture.
        """
        track, missed = self.tracks.get(key), None
        if track is None or step <= track.steps[-1]:
            track = self.tracks[key] = _Track()
        else:
            error = (weight - 1.0) * (track.extrapolated(time) - difference)
            off = _norms(error, pictures) / _norms(velocity, pictures).clamp_min(1e-12)
            missed = off if step > track.steps[-1] + 1 else None
            if self.budget.tolerance > 0:
                track.gap = self._next_gap(track.gap, float(off.max()))
        track.add(step, time, difference)
        return missed

    def _next_gap(self, gap: int, worst: float) -> int:
        """The gap after a refresh: doubled if the worst picture was well within the tolerance, halved if beyond it.

        The refresh itself shows the error of the extrapolation, so the estimate costs no evaluation.
        """
        if worst > self.budget.tolerance:
            return max(gap // 2, 1)
        return min(gap * 2 if worst < self.budget.tolerance / 2 else gap, self.budget.refresh_every)


def _norms(values: Tensor, pictures: int) -> Tensor:
    """The norm of each picture's rows, of which every prompt has one."""
    return values.reshape(-1, pictures, values[0].numel()).norm(dim=(0, 2))
