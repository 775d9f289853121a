"""Reading the base off the RL model on steps that a budget skips."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence

from torch import Tensor

from ...rlg_core.budget import Budget, DifferenceExtrapolation
from ...rlg_core.combine import Weight
from .calls import ModelCall

log = logging.getLogger(__name__)


class BaseReuse:
    """The budget's extrapolation on the calls of one run. Velocity means `(x - denoised) / sigma`."""

    def __init__(self, budget: Budget, sigmas: Sequence[float]):
        self.active = budget.refresh_every > 1
        self.extrapolation = DifferenceExtrapolation(budget, sigmas[:-1])
        # A sigma that is no step of the run's is a second-order sampler's inner call: never reused.
        self.steps = {sigma: step for step, sigma in enumerate(sigmas[:-1])}
        self.step = -1
        self.asked: set[Hashable] = set()

    def difference(self, call: ModelCall, part: int) -> Tensor | None:
        """`v_rl - v_base` of expert `part` to use for this call, or None where the base has to be evaluated."""
        step = self.steps.get(call.sigma) if self.active else None
        if step is None or self._asked_before(step, self._key(call, part)):
            return None
        return self.extrapolation.predicted(self._key(call, part), step, call.sigma)

    def _asked_before(self, step: int, key: Hashable) -> bool:
        """A second call of one step and one key (tiles, copies of a prompt, a corrector at the next step's sigma): which
        of them the next step's call follows is unknown, so nothing is reused from here on."""
        if step != self.step:
            self.step, self.asked = step, set()
        if key in self.asked:
            self.active = False
            log.warning(
                "RLG Budget evaluates every step from here on: the sampler calls the model more than once a step."
            )
        self.asked.add(key)
        return not self.active

    def base(self, call: ModelCall, rl: Tensor, difference: Tensor) -> Tensor:
        """The base's denoised prediction, from the RL model's: `denoised_base = denoised_rl + sigma (v_rl - v_base)`."""
        return rl + call.sigma * difference

    def observe(self, call: ModelCall, part: int, base: Tensor, rl: Tensor, weight: Weight) -> None:
        """Learns from a call in which the base and expert `part` were both evaluated."""
        step = self.steps.get(call.sigma) if self.active else None
        if step is None:
            return
        difference = (base - rl) / call.sigma
        velocity = (call.x - rl) / call.sigma
        largest = float(weight.abs().max()) if isinstance(weight, Tensor) else abs(weight)
        effect = abs(largest - 1.0) * float(difference.norm() / velocity.norm().clamp_min(1e-12))
        self.extrapolation.observe(self._key(call, part), step, call.sigma, difference, effect)

    @staticmethod
    def _key(call: ModelCall, part: int) -> Hashable:
        """What two calls must share for one's difference to hold for the other: expert, prompts, shape, window."""
        options = call.transformer_options
        frames = tuple(getattr(options.get("context_window"), "index_list", ()))
        return (
            part,
            tuple(options.get("uuids", ())),
            tuple(options.get("cond_or_uncond", ())),
            tuple(call.x.shape),
            frames,
        )
