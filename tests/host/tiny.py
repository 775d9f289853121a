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
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=depth,
        attention_head_dim=64,
        num_attention_heads=depth,
        joint_attention_dim=96,
        caption_projection_dim=64 * depth,
        pooled_projection_dim=64,
        pos_embed_max_size=24,
    )
    return model.eval().requires_grad_(False)


def sd15_unet(seed: int = 0) -> torch.nn.Module:
    """SD1.5 layout with one residual block a level (the host reads 320 channels and context 768 as SD1.5)."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).eval().requires_grad_(False)


def with_adapter(
    transformer: torch.nn.Module, targets: list[str], rank: int = 4, alpha: int = 8, seed: int = 1
) -> torch.nn.Module:
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
            self.noise(),
            latent,
            samplers.sampler_object(self.sampler),
            self.sigmas(host, model),
            denoise_mask=self.mask,
            seed=self.seed,
            disable_pbar=True,
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


def unet_weights(host: SimpleNamespace, seed: int = 0) -> dict[str, torch.Tensor]:
    """SD1.5 layout in the host's own keys: its width (320) and context, two levels of one block each, 40 M weights."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    network = UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[1, 1],
        channel_mult=(1, 1),
        transformer_depth=[1, 1],
        transformer_depth_output=[1, 1, 1, 1],
        transformer_depth_middle=1,
        num_heads=8,
        use_spatial_transformer=True,
        context_dim=768,
        legacy=False,
        dtype=torch.float32,
        operations=host.comfy.ops.manual_cast,
    )
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator)
        * value[0].numel() ** -0.5
        * (0.1 if name == "out.2.weight" else 1)
        if value.ndim > 1
        else torch.full_like(value, float(name.endswith("weight")))
        for name, value in network.state_dict().items()
    }


def load_weights(host: SimpleNamespace, weights: dict[str, torch.Tensor], dtype: torch.dtype = torch.float32) -> Any:
    """Weights in the host's own keys as a MODEL of the host."""
    return host.comfy.sd.load_diffusion_model_state_dict(
        {k: v.clone() for k, v in weights.items()}, model_options={"dtype": dtype}
    )


def unet_sampling(**settings: Any) -> Sampling:
    """Settings for the SD1.5 layout."""
    defaults = {
        "shape": (1, 4, 8, 8),
        "steps": 4,
        "positive": conditioning(11, 768, None),
        "negative": conditioning(12, 768, None),
    }
    return Sampling(**defaults | settings)


def wan_weights(host: SimpleNamespace) -> dict[str, torch.Tensor]:
    """Wan 2.1's layout, whose blocks have a `modulation` of their own beside their layers."""
    from comfy.ldm.wan.model import WanModel

    network = WanModel(
        model_type="t2v",
        dim=256,
        in_dim=16,
        out_dim=16,
        ffn_dim=512,
        text_dim=4096,
        num_heads=2,
        num_layers=1,
        operations=host.comfy.ops.disable_weight_init,
        dtype=torch.float32,
    )
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(value.shape, generator=generator) * 0.02 + ("norm" in name and name.endswith("weight"))
        for name, value in network.state_dict().items()
    }


def wan_sampling(**settings: Any) -> Sampling:
    """Settings for Wan's layout: one frame."""
    defaults = {
        "shape": (1, 16, 1, 8, 8),
        "steps": 2,
        "positive": conditioning(11, 4096, None),
        "negative": conditioning(12, 4096, None),
    }
    return Sampling(**defaults | settings)


def guided(host: SimpleNamespace, model: Any, rl_model: Any, scale: float, **inputs: Any) -> Any:
    """`model` behind the node Reinforcement Learning Guidance."""
    defaults = {"start_percent": 0.0, "end_percent": 1.0, "outside_scale": 1.0, "rescale": 0.0}
    return host.classes["RLGApply"].execute(model, rl_model, scale, **defaults | inputs).result[0]


def two_passes(host: SimpleNamespace, model: Any, rl_model: Any, scale: float) -> Any:
    """The reference: `model` with each call answered by `base + scale (rl - base)`, from two plain evaluations.

    `rl_model` must have weights of its own (a second load): nothing is shared, switched or batched.
    """
    assert rl_model.model is not model.model

    def combine(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds):
        fresh = lambda: None if control is None else {name: list(outputs) for name, outputs in control.items()}  # noqa: E731
        base = executor(x, t, c_concat, c_crossattn, fresh(), transformer_options, **conds)
        run = type(executor).new_class_executor(
            rl_model.model._apply_model, rl_model.model, executor.wrappers, executor.idx
        )
        rl = run(x, t, c_concat, c_crossattn, fresh(), transformer_options, **conds)
        return base + scale * (rl - base)

    clone = model.clone()
    clone.add_wrapper_with_key(host.comfy.patcher_extension.WrappersMP.APPLY_MODEL, "reference", combine)
    clone.set_additional_models("reference", [rl_model])
    return clone


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of two latents."""
    return float((a - b).abs().max())
