"""Tiny models in real key layouts: diffusers classes make the weights, the host loads them."""
from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

SD3_TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
UNET_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def sd3_transformer(seed: int = 0, depth: int = 2) -> torch.nn.Module:
    """SD3 layout; the host reads the depth off the width (64 a layer). Text width 96, pooled width 64."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(seed)
    model = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=16, out_channels=16, num_layers=depth, attention_head_dim=64,
        num_attention_heads=depth, joint_attention_dim=96, caption_projection_dim=64 * depth, pooled_projection_dim=64,
        pos_embed_max_size=24,
    )
    return model.eval().requires_grad_(False)


def sd15_unet(seed: int = 0) -> torch.nn.Module:
    """SD1.5 layout with one residual block a level (the host reads 320 channels and context 768 as SD1.5)."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).eval().requires_grad_(False)


def with_adapter(transformer: torch.nn.Module, targets: list[str], rank: int = 4, alpha: int = 8, seed: int = 1) -> torch.nn.Module:
    """`transformer` under a real PEFT adapter with random weights in both matrices."""
    import peft

    model = peft.get_peft_model(transformer, peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * (0.3 if "lora_A" in name else 0.05)
    return model.eval().requires_grad_(False)


def lora_file(peft_model: torch.nn.Module, alpha: int) -> dict[str, torch.Tensor]:
    """The adapter as the host's own LoRA loader takes it at true strength: PEFT keys and an alpha for each."""
    import peft

    weights = {k: v.clone() for k, v in peft.get_peft_model_state_dict(peft_model).items()}
    alphas = {k.replace("lora_A.weight", "alpha"): torch.tensor(float(alpha)) for k in weights if "lora_A" in k}
    return weights | alphas


def load(host: SimpleNamespace, transformer: torch.nn.Module, dtype: torch.dtype = torch.float32) -> Any:
    """`transformer`'s weights as a MODEL of the host."""
    weights = {k: v.clone() for k, v in transformer.state_dict().items()}
    return host.comfy.sd.load_diffusion_model_state_dict(weights, model_options={"dtype": dtype})


def with_lora(host: SimpleNamespace, model: Any, lora: dict[str, torch.Tensor], strength: float = 1.0) -> Any:
    return host.comfy.sd.load_lora_for_models(model, None, dict(lora), strength, 0)[0]


def conditioning(seed: int, width: int = 96, pooled: int | None = 64, tokens: int = 7) -> list:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, width, generator=generator)
    extra = {} if pooled is None else {"pooled_output": torch.randn(1, pooled, generator=generator)}
    return [[text, extra]]


@dataclass
class Sampling:
    """Settings of one sampling run, and what it needs to be repeated outside the host."""

    steps: int = 8
    cfg: float = 4.5
    sampler: str = "euler"
    scheduler: str = "simple"
    seed: int = 3
    shape: tuple[int, ...] = (1, 16, 8, 8)
    positive: list = field(default_factory=lambda: conditioning(11))
    negative: list = field(default_factory=lambda: conditioning(12))
    latent: torch.Tensor | None = None
    mask: torch.Tensor | None = None

    def noise(self) -> torch.Tensor:
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(self.seed))

    def sigmas(self, host: SimpleNamespace, model: Any) -> torch.Tensor:
        sampling = model.get_model_object("model_sampling")
        return host.comfy.samplers.calculate_sigmas(sampling, self.scheduler, self.steps).cpu()

    def run(self, host: SimpleNamespace, model: Any, guider: Any = None) -> torch.Tensor:
        """The final latent, as the host's samplers return it."""
        samplers = host.comfy.samplers
        if guider is None:
            guider = samplers.CFGGuider(model)
            guider.set_conds(self.positive, self.negative)
            guider.set_cfg(self.cfg)
        latent = torch.zeros(self.shape) if self.latent is None else self.latent
        return guider.sample(
            self.noise(), latent, samplers.sampler_object(self.sampler), self.sigmas(host, model),
            denoise_mask=self.mask, seed=self.seed, disable_pbar=True,
        )


@contextmanager
def counted_calls(model: Any) -> Iterator[list[int]]:
    """The rows of every call of `model`'s network while the context lasts."""
    rows: list[int] = []
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[0]))
    try:
        yield rows
    finally:
        hook.remove()


def rms(a: torch.Tensor) -> float:
    return math.sqrt(a.float().square().mean())
