"""Reads the base off the RL model on steps that a budget skips."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence

from torch import Tensor

from ....rlg_core.budget import Budget, DifferenceExtrapolation
from .calls import BASE
from .step import Step

log = logging.getLogger(__name__)


class BaseReuse:
    """Applies the budget's extrapolation to the calls of one run. Velocity means `(x - denoised) / sigma`."""

    def __init__(self, budget: Budget, sigmas: Sequence[float]):
        self.active = True
        self.extrapolation = DifferenceExtrapolation(budget, sigmas[:-1])
        # A sigma that is not one of the run's steps belongs to an inner call of a second-order sampler: never reused.
        self.indices = {sigma: index for index, sigma in enumerate(sigmas[:-1])}
        self.latest = -1
        self.seen: set[Hashable] = set()

    def note(self, step: Step) -> None:
        """Registers a call. Reuse ends for the run with the second call of the same step and kind.

        Tiles, copies of a prompt and a corrector at the next step's sigma look alike, so it is unknown which of them
        a call at the next step continues.
        """
        index, kind = self.indices.get(step.call.sigma), _kind(step)
        if not self.active or index is None:
            return
        if index != self.latest:
            self.latest, self.seen = index, set()
        if kind in self.seen:
            self.active = False
            log.warning(
                "RLG Budget evaluates every step from here on: the sampler calls the model more than once per step."
            )
        self.seen.add(kind)

    def difference(self, step: Step) -> Tensor | None:
        """`v_rl - v_base` of the first expert to use at this step, or None if the base has to be evaluated."""
        index = self.indices.get(step.call.sigma)
        if not self.active or index is None:
            return None
        return self.extrapolation.predicted(_kind(step), index, step.call.sigma)

    def observe(self, step: Step) -> None:
        """Learns from a step in which the base and its first expert were both evaluated."""
        index = self.indices.get(step.call.sigma)
        if not self.active or index is None:
            return
        first, sigma = step.experts[0], step.call.sigma
        base, rl, weight = step.predictions[BASE], step.predictions[first], step.weights[first]
        difference, velocity = (base - rl) / sigma, (step.call.x - rl) / sigma
        largest = float(weight.abs().max()) if isinstance(weight, Tensor) else abs(weight)
        effect = abs(largest - 1.0) * float(difference.norm() / velocity.norm().clamp_min(1e-12))
        self.extrapolation.observe(_kind(step), index, sigma, difference, effect)


def read_off(step: Step, difference: Tensor) -> Tensor:
    """The base's denoised prediction from the first expert's: `denoised_base = denoised_rl + sigma (v_rl - v_base)`."""
    return step.predictions[step.experts[0]] + step.call.sigma * difference


def _kind(step: Step) -> Hashable:
    """What two calls must share for one's difference to hold for the other: expert, prompts, shape, window."""
    batch = step.call.batch
    frames = tuple(getattr(batch.window, "index_list", ()))
    return (step.experts[0], batch.chunks, batch.conditionings, tuple(batch.x.shape), frames)
