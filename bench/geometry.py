"""The models that are measured: diffusers' classes make the weights, as in the paper's code; the host loads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

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
