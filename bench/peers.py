"""Guiders as two-model packs and core write them. Import it after the host has started."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.samplers
from torch import Tensor


class PatchingGuider(comfy.samplers.CFGGuider):
    """One copy of the weights; the RL model's LoRA is patched into them and out again in every step."""

    def __init__(self, base: Any, rl: Any, scale: float):
        super().__init__(base)
        self.rl, self.scale = rl, scale

    def predict_noise(self, *args: Any, **kwargs: Any) -> Tensor:
        base = super().predict_noise(*args, **kwargs)
        comfy.model_management.load_models_gpu([self.rl])
        rl = super().predict_noise(*args, **kwargs)
        comfy.model_management.load_models_gpu([self.model_patcher])
        return base + self.scale * (rl - base)


class CopiesGuider(comfy.samplers.CFGGuider):
    """Two full copies of the weights; each model CFG'd on its own, both prompts in one call of it."""

    def __init__(self, base: Any, rl: Any, scale: float):
        model = base.clone()
        model.set_additional_models("rl copy", [rl])
        super().__init__(model)
        self.rl, self.scale = rl, scale

    def inner_sample(self, *args: Any, **kwargs: Any) -> Tensor:
        self.rl.pre_run()
        try:
            return super().inner_sample(*args, **kwargs)
        finally:
            self.rl.cleanup()

    def predict_noise(self, *args: Any, **kwargs: Any) -> Tensor:
        base, rl = (self.guided(model, *args, **kwargs) for model in (self.inner_model, self.rl.model))
        return base + self.scale * (rl - base)

    def guided(self, model: Any, x: Tensor, timestep: Tensor, model_options: dict, seed: int | None = None) -> Tensor:
        conds = self.conds
        return comfy.samplers.sampling_function(
            model,
            x,
            timestep,
            conds.get("negative"),
            conds.get("positive"),
            self.cfg,
            model_options=model_options,
            seed=seed,
        )


class CoreShapeGuider(CopiesGuider):
    """The shape of core's Dual Model CFG Guider, which calls `calc_cond_batch` once a model and prompt."""

    def guided(self, model: Any, x: Tensor, timestep: Tensor, model_options: dict, seed: int | None = None) -> Tensor:
        positive, negative = (self.conds.get(name) for name in ("positive", "negative"))
        conditional = comfy.samplers.calc_cond_batch(model, [positive], x, timestep, model_options)[0]
        if self.cfg == 1:
            return conditional
        unconditional = comfy.samplers.calc_cond_batch(model, [negative], x, timestep, model_options)[0]
        return comfy.samplers.cfg_function(
            model,
            conditional,
            unconditional,
            self.cfg,
            x,
            timestep,
            model_options=model_options,
            cond=positive,
            uncond=negative,
        )
