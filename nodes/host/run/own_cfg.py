"""Experts with their own CFG scale: `CFG_s(base) + sum_k w_k (CFG_{c_k}(rl_k) - CFG_s(base))`, around the guider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy.patcher_extension import WrapperExecutor
from torch import Tensor

from ....rlg_core.combine import Weight, base_weight, geometric_mean, is_zero, rescale, where_guided
from ..compat import CFG_FUNCTIONS, caches_by_uuid
from .calls import Batch, ModelCall
from .randomness import SameStart, same_for_every_pass
from .record import Record
from .remembered import Remembered
from .scales import Scales

FOCUS = "rlg_focus"
"""In `transformer_options`: the only experts that count in the calls of one prediction."""


class OwnCFG:
    """Combines predictions after CFG, while the rest of the pack combines those before it."""

    def __init__(self, record: Record, scales: Scales):
        self.record, self.scales = record, scales
        self.remembered = Remembered()

    def predict_noise(
        self, executor: WrapperExecutor, x: Tensor, timestep: Tensor, model_options: dict, seed: Any
    ) -> Tensor:
        """`WrappersMP.PREDICT_NOISE`: denoised [items, ...]."""
        with same_for_every_pass(x.device) as randomness:
            return self._combined(
                _Prediction(executor, x, timestep, model_options, seed, randomness, self.remembered), x, timestep
            )

    def _combined(self, prediction: _Prediction, x: Tensor, timestep: Tensor) -> Tensor:
        """The prediction after CFG. `rescale` refers to the first expert with a CFG scale of its own.

        The experts before it have no prediction after CFG of their own here, and one more would cost an evaluation.
        """
        everywhere = Batch(x, timestep, conditionings=((None, 0),))
        weights = {role: w for role, w in enumerate(self.scales.of_picture(everywhere), 1) if not is_zero(w)}
        own = [role for role in weights if self._cfg(role) > 0]
        rest = [role for role in weights if role not in own]
        if not own:
            return prediction.of(None)
        guided = [(weights[role], prediction.of([role], self._cfg(role))) for role in own]
        if not rest and is_zero(base_weight([weights[role] for role in own])):
            return geometric_mean(None, guided)
        base = prediction.of([])
        mean = geometric_mean(base, guided)
        if rest:
            mean = mean + prediction.of(rest) - base
        if not self.record.rescale:
            return mean
        return rescale(mean, guided[0][1], where_guided(self.record.rescale, weights.values()))

    def focused(self, call: ModelCall, weights: list[Weight]) -> list[Weight]:
        """The weights in a call that is for some experts only. An expert with its own CFG takes the base's place."""
        focus = call.transformer_options.get(FOCUS)
        if focus is None:
            return weights
        if len(focus) == 1 and self._cfg(focus[0]) > 0:
            return [float(role in focus) for role in range(1, len(weights) + 1)]
        return [weight if role in focus else 0.0 for role, weight in enumerate(weights, 1)]

    def _cfg(self, role: int) -> float:
        return self.record.experts[role - 1].branch.rl_cfg


class _Prediction:
    """One prediction of the guider, which can be made with some experts only."""

    def __init__(
        self,
        executor: WrapperExecutor,
        x: Tensor,
        timestep: Tensor,
        model_options: dict,
        seed: Any,
        randomness: SameStart,
        remembered: Remembered,
    ):
        self.executor, self.x, self.timestep, self.seed = executor, x, timestep, seed
        self.model_options, self.randomness, self.remembered = model_options, randomness, remembered
        # What nodes keep around CFG (APG its average) and from step to step (EasyCache), each prediction finds as it
        # left it: a cache that skips one of them alone would put predictions of different sigmas together.
        functions = [model_options[name] for name in CFG_FUNCTIONS if model_options.get(name)]
        self.roots = [*functions, *caches_by_uuid(model_options.get("transformer_options", {}))]

    def of(self, roles: Sequence[int] | None, cfg: float = 0.0) -> Tensor:
        """The guider's prediction with only the experts of `roles` (None: all), at its own CFG or at `cfg`."""
        options = self.model_options
        if roles is not None:
            focus = {FOCUS: tuple(roles)}
            options = {**options, "transformer_options": {**options.get("transformer_options", {}), **focus}}
        guider = self.executor.class_obj
        sampler_cfg = guider.cfg
        guider.cfg = cfg or sampler_cfg
        self.remembered.hand_over(tuple(roles or ()), self.roots)
        try:
            with self.randomness.one_pass(self.x.device):
                prediction = self.executor(self.x, self.timestep, options, self.seed)
            self.remembered.look(self.roots)
            return prediction
        finally:
            guider.cfg = sampler_cfg
