"""A geometry in this process: its weights, adapter and prompts, and runs of the host on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from support import tiny
from support.sampling import conditioning

from . import forms
from .geometry import DEMO, DEMO_CLIP, Geometry


def transformer(geometry: Geometry, seed: int = 0) -> nn.Module:
    """The diffusers model with random weights, always the same; made in its dtype, so that large ones fit."""
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(geometry.dtype)
    try:
        return geometry.make().eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)


def adapted(model: nn.Module, geometry: Geometry, seed: int = 1) -> nn.Module:
    """`model` under its PEFT adapter; a random one has alpha = 2 rank, as Flow-GRPO trains."""
    import peft

    if geometry.adapter:
        return peft.PeftModel.from_pretrained(model, geometry.adapter).eval().requires_grad_(False)
    config = peft.LoraConfig(r=geometry.rank, lora_alpha=2 * geometry.rank, target_modules=geometry.targets)
    wrapped = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            spread = 0.5 / parameter.shape[1] ** 0.5 if "lora_A" in name else 0.05
            parameter.data = (torch.randn(parameter.shape, generator=generator) * spread).to(parameter)
    return wrapped.eval().requires_grad_(False)


def lora_file(wrapped: nn.Module) -> dict[str, Tensor]:
    """The adapter as the stock LoRA loader takes it for both families, with its alpha."""
    import peft

    alpha = float(wrapped.peft_config["default"].lora_alpha)
    named = {
        k.replace("base_model.model", "transformer"): v.clone()
        for k, v in peft.get_peft_model_state_dict(wrapped).items()
    }
    alphas = {k.replace("lora_A.weight", "alpha"): torch.tensor(alpha) for k in named if "lora_A" in k}
    return named | alphas


def random_prompts(geometry: Geometry) -> list[Any]:
    """Positive and negative conditioning of the host's with random values."""
    return [conditioning(seed, geometry.text, geometry.pooled, geometry.tokens) for seed in (11, 12)]


def demo_prompts(host: SimpleNamespace, *texts: str) -> list[Any]:
    """Conditioning of `texts` by the demo's text encoder, through the host's own nodes."""
    host.folder_paths.add_model_folder_path("text_encoders", str(DEMO / "text_encoders"))
    clip = host.nodes.CLIPLoader().load_clip(DEMO_CLIP, "sd3")[0]
    return [host.nodes.CLIPTextEncode().encode(clip, text)[0] for text in texts]


class Pair:
    """One geometry in this process: its host models, diffusers + PEFT model and prompts, each made on first use."""

    def __init__(self, host: SimpleNamespace, geometry: Geometry):
        self.host, self.geometry = host, geometry
        self.positive, self.negative = (
            demo_prompts(host, *geometry.prompts) if geometry.prompts else random_prompts(geometry)
        )

    def resized(self, geometry: Geometry) -> Pair:
        """The same models at another latent size."""
        other = Pair(self.host, geometry)
        other.__dict__.update({k: v for k, v in vars(self).items() if k != "geometry"})
        return other

    # Weights

    def transformer(self) -> nn.Module:
        return transformer(self.geometry)

    def adapted(self) -> nn.Module:
        return adapted(self.transformer(), self.geometry)

    @cached_property
    def lora(self) -> dict[str, Tensor]:
        return lora_file(self.adapted())

    @cached_property
    def base(self) -> Any:
        return self._load(self.transformer())

    @cached_property
    def sampling(self) -> Any:
        return self.base.get_model_object("model_sampling")

    @cached_property
    def copy(self) -> Any:
        """The RL model as a checkpoint of its own: the adapter merged into a second copy of the weights."""
        return self._load(self.adapted().merge_and_unload())

    @cached_property
    def peft(self) -> nn.Module:
        return self.adapted().to(self.device)

    @property
    def device(self) -> torch.device:
        return self.host.comfy.model_management.get_torch_device()

    def rl(self) -> Any:
        """A new clone of the base with the adapter on it, as a LoRA loader gives it."""
        rl = tiny.with_lora(self.host, self.base, self.lora)
        assert len(rl.patches) > 0, "the host found no key of the adapter"
        return rl

    def _load(self, model: nn.Module) -> Any:
        return forms.held(self.host, tiny.load(self.host, model, self.geometry.dtype), self.geometry.form)

    def networks(self) -> list[nn.Module]:
        """The networks that have been made so far."""
        made = vars(self)
        own = [made[name].model.diffusion_model for name in ("base", "copy") if name in made]
        return own + ([made["peft"].base_model.model] if "peft" in made else [])

    # Sampling

    def noise(self, seed: int) -> Tensor:
        return torch.randn(self.geometry.latent, generator=torch.Generator().manual_seed(seed))

    def sigmas(self, steps: int) -> Tensor:
        samplers = self.host.comfy.samplers
        return samplers.calculate_sigmas(self.sampling, "simple", steps).cpu()

    def guide(self, guider: Any, job: Job, on_step: Callable[[], None]) -> Tensor:
        """A run of the host with `guider`: Euler, the final latent in the model's space."""
        guider.set_conds(self.positive, self.negative)
        guider.set_cfg(self.geometry.cfg)
        latent = guider.sample(
            self.noise(job.seed),
            torch.zeros(self.geometry.latent),
            self.host.comfy.samplers.sampler_object("euler"),
            self.sigmas(job.steps),
            callback=lambda *_: on_step(),
            seed=job.seed,
            disable_pbar=True,
        )
        return guider.model_patcher.model.process_latent_in(latent)


@dataclass(frozen=True)
class Job:
    """One sampling run."""

    steps: int = 4
    scale: float = 2.0
    seed: int = 3
