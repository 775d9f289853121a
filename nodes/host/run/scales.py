"""`w_k` of every expert for one model call: schedule, mask, and multipliers by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy.model_sampling import CONST
from torch import Tensor

from ....rlg_core.combine import Weight, blended, is_zero
from ....rlg_core.kl import flow_time
from .calls import BASE, Batch
from .record import Expert
from .regions import Regions
from .step import needed_roles


class Clock:
    """What a sigma means to a model: the schedule's percent, and the time on the path of a flow."""

    def __init__(self, model_sampling: Any):
        self.model_sampling = model_sampling
        self.known: dict[float, float] = {}

    def time(self, sigma: float) -> float:
        """The t of `(1 - t) x_0 + t eps` with this sigma's ratio of noise to signal."""
        return sigma if isinstance(self.model_sampling, CONST) else flow_time(sigma)

    def percent(self, sigma: float) -> float:
        """The inverse of the host's decreasing `percent_to_sigma`."""
        if sigma not in self.known:
            self.known[sigma] = self._bisect(sigma)
        return self.known[sigma]

    def _bisect(self, sigma: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            if float(self.model_sampling.percent_to_sigma(middle)) > sigma:
                low = middle
            else:
                high = middle
        return (low + high) / 2


class Scales:
    """The weights of all experts of one run."""

    def __init__(self, experts: Sequence[Expert], clock: Clock, regions: Regions):
        self.experts, self.clock, self.regions = experts, clock, regions

    def of(self, batch: Batch) -> list[Weight]:
        """`w_k` for the rows of `batch`: a number, or a tensor [rows, 1, ...] that broadcasts over its latents."""
        by_expert = zip(self.experts, self.of_picture(batch))
        return [
            weight * self.regions.per_prompt(expert.branch.multipliers, batch) if expert.branch.by_prompt else weight
            for expert, weight in by_expert
        ]

    def of_picture(self, batch: Batch) -> list[Weight]:
        """`w_k` before the multipliers by prompt: after CFG, a prediction is for all prompts."""
        return [self._weight(expert, batch) for expert in self.experts]

    def _weight(self, expert: Expert, batch: Batch) -> Weight:
        scale = expert.schedule.scale_at(0.0 if expert.schedule.is_constant else self.clock.percent(batch.sigma))
        if isinstance(scale, Tensor):
            scale = self.regions.per_item(scale, batch)
        mask = None if expert.mask is None else self.regions.mask(expert.mask, batch)
        return blended(scale, expert.outside_scale, mask)

    def roles_at(self, sigma: float) -> list[int]:
        """The roles that a step at `sigma` may need: too many rather than too few if only the call itself can tell."""
        percent = self.clock.percent(sigma)
        scales = [expert.schedule.scale_at(percent) for expert in self.experts]
        varies = [
            e.mask is not None or e.branch.by_prompt or isinstance(s, Tensor) for e, s in zip(self.experts, scales)
        ]
        if not any(varies):
            return needed_roles(scales)
        return [BASE, *(k for k, (s, v) in enumerate(zip(scales, varies), 1) if v or not is_zero(s))]
