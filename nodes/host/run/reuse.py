"""Reads the base off the RL model on steps that a budget skips."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence

from torch import Tensor

from ....rlg_core.budget import Budget, DifferenceExtrapolation
from .calls import BASE
from .scales import Clock
from .step import Step

log = logging.getLogger(__name__)
RISK = 0.5
"""A relative error of the skipped steps beyond which a picture is named; a hint, as most end near the exact one."""

MOST_NAMED = 8


class BaseReuse:
    """Applies the budget's extrapolation to the calls of one run. Times and velocities are those of the flow."""

    def __init__(self, budget: Budget, sigmas: Sequence[float], clock: Clock):
        self.active, self.clock = True, clock
        self.extrapolation = DifferenceExtrapolation(budget, [clock.time(sigma) for sigma in sigmas[:-1]])
        # A sigma that is not one of the run's steps belongs to an inner call of a second-order sampler: never reused.
        self.indices = {sigma: index for index, sigma in enumerate(sigmas[:-1])}
        self.latest = -1
        self.seen: set[Hashable] = set()
        self.risks: dict[int, float] = {}

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
        return self.extrapolation.predicted(_kind(step), index, self.clock.time(step.call.sigma))

    def observe(self, step: Step) -> None:
        """Learns from a step in which the base and its first expert were both evaluated."""
        index = self.indices.get(step.call.sigma)
        if not self.active or index is None:
            return
        first, sigma = step.experts[0], step.call.sigma
        time, x = self.clock.time(sigma), step.call.x
        if time != sigma:
            x = x / (1.0 + sigma)
        base, rl, weight = step.predictions[BASE], step.predictions[first], sum(step.weights.values())
        difference, velocity = (base - rl) / time, (x - rl) / time
        off = self.extrapolation.observe(_kind(step), index, time, difference, velocity, weight, step.call.batch.items)
        if off is not None:
            self._judge(step, off)

    def read_off(self, step: Step, difference: Tensor) -> Tensor:
        """The base's denoised prediction from the first expert's: `denoised_base = denoised_rl + t (v_rl - v_base)`."""
        return step.predictions[step.experts[0]] + self.clock.time(step.call.sigma) * difference

    def _judge(self, step: Step, off: Tensor) -> None:
        """Keeps, for each picture, the worst relative error that the refreshes have shown."""
        step.risk = off.tolist()
        for picture, risk in enumerate(step.risk):
            self.risks[picture] = max(risk, self.risks.get(picture, 0.0))

    def report(self) -> None:
        """Names, in the log, the pictures whose skipped steps were far off."""
        risky = [str(picture) for picture, risk in sorted(self.risks.items()) if risk > RISK]
        if risky:
            log.warning(
                "RLG Budget: %s of %d pictures may be far from exact guidance (number %s of the batch, from 0): "
                "refresh more often, or use exact.",
                len(risky),
                len(self.risks),
                ", ".join(risky[:MOST_NAMED]) + (" and others" if len(risky) > MOST_NAMED else ""),
            )


def _kind(step: Step) -> Hashable:
    """What two calls must share for one's difference to hold for the other: expert, prompts, shape, window."""
    batch = step.call.batch
    frames = tuple(getattr(batch.window, "index_list", ()))
    return (step.experts[0], batch.chunks, batch.conditionings, tuple(batch.x.shape), frames)
