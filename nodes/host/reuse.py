"""Reading the base off the RL model on steps that a budget skips."""
from __future__ import annotations

from collections.abc import Hashable, Sequence

from torch import Tensor

from ...rlg_core.budget import Budget, DifferenceExtrapolation
from ...rlg_core.combine import Weight
from .calls import ModelCall


class BaseReuse:
    """The budget's extrapolation on the calls of one run. Velocity means `(x - denoised) / sigma`."""

    def __init__(self, budget: Budget, sigmas: Sequence[float]):
        self.active = budget.refresh_every > 1
        self.extrapolation = DifferenceExtrapolation(budget, sigmas[:-1])
        # A sigma that is no step of the run's is a second-order sampler's inner call: never reused.
        self.steps = {sigma: step for step, sigma in enumerate(sigmas[:-1])}

    def difference(self, call: ModelCall) -> Tensor | None:
        """`v_rl - v_base` to use for this call, or None where the base has to be evaluated."""
        step = self.steps.get(call.sigma) if self.active else None
        return None if step is None else self.extrapolation.predicted(self._key(call), step, call.sigma)

    def base(self, call: ModelCall, rl: Tensor, difference: Tensor) -> Tensor:
        """The base's denoised prediction, from the RL model's: `denoised_base = denoised_rl + sigma (v_rl - v_base)`."""
        return rl + call.sigma * difference

    def observe(self, call: ModelCall, base: Tensor, rl: Tensor, weight: Weight) -> None:
        """Learns from a call in which both were evaluated."""
        step = self.steps.get(call.sigma) if self.active else None
        if step is None:
            return
        difference = (base - rl) / call.sigma
        velocity = (call.x - rl) / call.sigma
        largest = float(weight.abs().max()) if isinstance(weight, Tensor) else abs(weight)
        effect = abs(largest - 1.0) * float(difference.norm() / velocity.norm().clamp_min(1e-12))
        self.extrapolation.observe(self._key(call), step, call.sigma, difference, effect)

    @staticmethod
    def _key(call: ModelCall) -> Hashable:
        """What two calls must share for one's difference to hold for the other: prompts, shape, window."""
        window = call.transformer_options.get("context_window")
        frames = tuple(getattr(window, "index_list", ()))
        return (tuple(call.transformer_options.get("uuids", ())), tuple(call.x.shape), frames)
