"""The models that are measured: diffusers' classes make the weights, as in the paper's code; the host loads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from support import tiny
from support.sampling import conditioning

from . import forms
from .host import ROOT

DEMO = ROOT / "demo" / "models"
DEMO_BASE = DEMO / "diffusion_models" / "rlg-demo-base.safetensors"
DEMO_CLIP = "rlg-demo-clip.pt"
DEMO_PROMPTS = ("two red circles on plain ground", "")
SD3_TARGETS = r".*\.attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
FLUX_TARGETS = SD3_TARGETS + r"|.*\.(ff|ff_context)\.net\.(0\.proj|2)"


@dataclass(frozen=True)
class Geometry:
    """A model, the adapter on it and what is sampled, at the CFG that users run it at.

    `latent` is [rows, channels, (frames,) height, width]; `pooled` None is for models without pooled text.
    """

    name: str
    family: str
    make: Callable[[], nn.Module]
    rank: int
    targets: str
    cfg: float
    latent: tuple[int, ...]
    text: int
    pooled: int | None
    tokens: int
    dtype: torch.dtype = torch.float32
    adapter: Path | None = None
    """A PEFT folder; None for random weights of `rank` on `targets`."""
    prompts: tuple[str, str] | None = None
    """Positive and negative text for the demo's text encoder; None for random conditioning of `tokens`."""
    form: str = forms.PLAIN
    """How its weights are held, one of `forms.FORMS`."""

    def sized(self, rows: int = 1, side: int | None = None) -> Geometry:
        """The same model at another batch size and latent side."""
        _, *between, height, width = self.latent
        return replace(self, latent=(rows, *between, side or height, side or width))


def sd3(depth: int, text: int, pooled: int, dual: int = 0, positions: int = 96) -> nn.Module:
    """SD3 layout, 64 channels a block; `dual` leading blocks attend twice. SD3.5-medium has 384 `positions` a side."""
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=128,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=depth,
        attention_head_dim=64,
        num_attention_heads=depth,
        joint_attention_dim=text,
        caption_projection_dim=64 * depth,
        pooled_projection_dim=pooled,
        pos_embed_max_size=positions,
        dual_attention_layers=tuple(range(dual)),
        qk_norm="rms_norm" if dual else None,
    )


def flux(double: int, single: int, heads: int, text: int, pooled: int) -> nn.Module:
    """FLUX.1-dev layout, 128 channels a head."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=128,
        num_attention_heads=heads,
        joint_attention_dim=text,
        pooled_projection_dim=pooled,
        guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )


def qwen(depth: int, heads: int, text: int) -> nn.Module:
    """Qwen-Image's layout, 128 channels a head."""
    from diffusers import QwenImageTransformer2DModel

    return QwenImageTransformer2DModel(num_layers=depth, num_attention_heads=heads, joint_attention_dim=text)


# The ranks keep the share of Flow-GRPO's adapters: 32 at width 1536 and 64 at width 3072 are 1/48 of the width.
SMALL = Geometry(
    "small SD3 stack (width 256)", "sd3", partial(sd3, 4, 768, 768), 6, SD3_TARGETS, 4.5, (1, 16, 16, 16), 768, 768, 12
)
SD3_LIKE = Geometry(
    "SD3.5-M-like (width 512, 8 blocks)",
    "sd3",
    partial(sd3, 8, 1024, 768, dual=4),
    11,
    SD3_TARGETS,
    4.5,
    (1, 16, 16, 16),
    1024,
    768,
    77,
)
FLUX_LIKE = Geometry(
    "FLUX-like (width 768, 2 + 4 blocks)",
    "flux",
    partial(flux, 2, 4, 6, 1024, 768),
    16,
    FLUX_TARGETS,
    1.0,
    (1, 16, 16, 16),
    1024,
    768,
    77,
)
SD3_FULL = Geometry(
    "SD3.5-M (2.2 billion weights, 1024 px)",
    "sd3",
    partial(sd3, 24, 4096, 2048, dual=13),
    32,
    SD3_TARGETS,
    4.5,
    (1, 16, 128, 128),
    4096,
    2048,
    154,
    torch.bfloat16,
)
FLUX_FULL = Geometry(
    "FLUX.1 (12 billion weights, 1024 px)",
    "flux",
    partial(flux, 19, 38, 24, 4096, 768),
    64,
    FLUX_TARGETS,
    1.0,
    (1, 16, 128, 128),
    4096,
    768,
    512,
    torch.bfloat16,
)

QWEN_FULL = Geometry(
    "Qwen-Image (20 billion weights, 1024 px)",
    "qwen",
    partial(qwen, 60, 24, 3584),
    32,
    SD3_TARGETS,
    4.0,
    (1, 16, 1, 128, 128),
    3584,
    None,
    154,
    torch.bfloat16,
)


def demo_transformer() -> nn.Module:
    """The demo's base, in float32."""
    from diffusers import SD3Transformer2DModel
    from safetensors.torch import load_file

    weights = {name: value.float() for name, value in load_file(DEMO_BASE).items()}
    width = weights["proj_out.weight"].shape[1]
    model = SD3Transformer2DModel(
        sample_size=12,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=width // 64,
        attention_head_dim=64,
        num_attention_heads=width // 64,
        joint_attention_dim=4096,
        caption_projection_dim=width,
        pooled_projection_dim=2048,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    model.load_state_dict(weights)
    return model


def demo_geometries() -> list[Geometry]:
    """The demo pair with each of its adapters."""
    return [
        Geometry(
            f"the demo pair ({folder.name})",
            "sd3",
            demo_transformer,
            0,
            "",
            2.0,
            (1, 16, 12, 12),
            4096,
            2048,
            12,
            adapter=folder,
            prompts=DEMO_PROMPTS,
        )
        for folder in sorted((DEMO / "loras" / "rlg-demo").glob("*/"))
    ]


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
