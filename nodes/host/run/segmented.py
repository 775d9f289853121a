"""Segmented guidance (after arXiv 2603.20584): RLG without CFG while it counts, the RL model with CFG elsewhere."""

from __future__ import annotations

from typing import Any

from comfy.patcher_extension import WrapperExecutor
from torch import Tensor

from ....rlg_core.combine import is_zero
from ....rlg_core.errors import RunError
from .calls import Batch
from .scales import Scales


class Segmented:
    """Evaluates two predictions per step: base and RL model on the positive prompt, or the RL model on both prompts."""

    def __init__(self, scales: Scales):
        self.scales = scales

    def predict_noise(
        self, executor: WrapperExecutor, x: Tensor, timestep: Tensor, model_options: dict, seed: Any
    ) -> Tensor:
        """`WrappersMP.PREDICT_NOISE`: denoised [items, ...]. A scale of 1 is the RL model.

        Raises `RunError` for a batch of which only some items have that scale: CFG is one for all of them.
        """
        (weight,) = self.scales.of_picture(Batch(x, timestep, conditionings=((None, 0),)))
        guider = executor.class_obj
        if is_zero(weight - 1.0):
            return executor(x, timestep, model_options, seed)
        if isinstance(weight, Tensor) and any(is_zero(own - 1.0) for own in weight):
            raise RunError(
                "RLG Budget `segmented` runs a batch with CFG where the scale is 1 and without it elsewhere, and this "
                "batch has both. Leave 1 out of the scales, or use RLG Sweep, which runs them one by one."
            )
        sampler_cfg, guider.cfg = guider.cfg, 1.0
        try:
            return executor(x, timestep, model_options, seed)
        finally:
            guider.cfg = sampler_cfg
