"""Model families far narrower than any checkpoint: the host's own classes, of its own configurations.

The host recognises checkpoints by widths that are large; here its configuration is named, and the widths are small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from . import tiny
from .host_models import known_options
from .patched import all_weights
from .sampling import Sampling, conditioning
from .tensors import cloned, random, random_weights

RANK = 2


@dataclass(frozen=True)
class Layout:
    """One family: the host's configuration class and geometry, and what it samples.

    `text` and `pooled` are the widths of its conditionings, `extra` what else they carry. `params` names the module
    whose parameters class knows which options a release has, `last` its last layer.
    """

    config: str
    unet: Mapping[str, Any]
    latent: tuple[int, ...]
    text: int
    pooled: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    params: str = ""
    last: str = "final_layer.linear"


UNET = dict(
    image_size=32,
    in_channels=4,
    out_channels=4,
    model_channels=32,
    use_spatial_transformer=True,
    legacy=False,
    num_res_blocks=[1, 1],
    channel_mult=[1, 2],
    transformer_depth=[1, 1],
    transformer_depth_middle=1,
    transformer_depth_output=[1, 0, 1, 0],
    use_temporal_attention=False,
    use_temporal_resblock=False,
)
FLUX = dict(
    image_model="flux",
    in_channels=16,
    out_channels=16,
    vec_in_dim=64,
    context_in_dim=64,
    hidden_size=128,
    mlp_ratio=2.0,
    num_heads=1,
    depth=2,
    depth_single_blocks=2,
    axes_dim=[16, 56, 56],
    theta=10000,
    patch_size=2,
    qkv_bias=True,
    guidance_embed=True,
    txt_ids_dims=[],
)
LTX = dict(
    in_channels=128,
    cross_attention_dim=128,
    attention_head_dim=64,
    num_attention_heads=2,
    caption_channels=64,
    num_layers=2,
)
LUMINA = dict(
    image_model="lumina2",
    patch_size=2,
    in_channels=16,
    dim=96,
    cap_feat_dim=64,
    n_layers=2,
    qk_norm=True,
    n_heads=1,
    n_kv_heads=1,
    axes_dims=[32, 32, 32],
    axes_lens=[300, 512, 512],
    ffn_dim_multiplier=1.0,
)

LAYOUTS: dict[str, Layout] = {
    "SD1.5": Layout(
        "SD15",
        dict(UNET, context_dim=64, num_heads=2, use_linear_in_transformer=False, adm_in_channels=None),
        (1, 4, 8, 8),
        64,
        last="out.2",
    ),
    "SDXL": Layout(
        "SDXL",
        dict(
            UNET
            | {"transformer_depth": [0, 2], "transformer_depth_middle": 2, "transformer_depth_output": [0, 0, 2, 2]},
            context_dim=64,
            num_head_channels=32,
            use_linear_in_transformer=True,
            adm_in_channels=64 + 6 * 256,
            num_classes="sequential",
        ),
        (1, 4, 8, 8),
        64,
        64,
        last="out.2",
    ),
    "FLUX": Layout("Flux", FLUX, (1, 16, 8, 8), 64, 64, params="flux.model"),
    "FLUX.2": Layout(
        "Flux2",
        FLUX
        | dict(
            image_model="flux2",
            in_channels=128,
            out_channels=128,
            vec_in_dim=None,
            mlp_ratio=3.0,
            axes_dim=[32] * 4,
            theta=2000,
            patch_size=1,
            qkv_bias=False,
            global_modulation=True,
            mlp_silu_act=True,
            ops_bias=False,
            guidance_embed=False,
            default_ref_method="index",
            ref_index_scale=10.0,
            txt_ids_dims=[3],
        ),
        (1, 128, 4, 4),
        64,
        params="flux.model",
    ),
    "Wan": Layout(
        "WAN21_T2V",
        dict(
            image_model="wan2.1",
            model_type="t2v",
            dim=128,
            in_dim=16,
            out_dim=16,
            ffn_dim=128,
            text_dim=64,
            num_heads=1,
            num_layers=2,
            patch_size=(1, 2, 2),
            freq_dim=64,
        ),
        (1, 16, 2, 8, 8),
        64,
        last="head.head",
    ),
    "Lumina2": Layout("Lumina2", LUMINA, (1, 16, 8, 8), 64),
    "Qwen-Image": Layout(
        "QwenImage",
        dict(
            image_model="qwen_image",
            in_channels=64,
            num_layers=2,
            attention_head_dim=128,
            num_attention_heads=1,
            joint_attention_dim=64,
        ),
        (1, 16, 1, 8, 8),
        64,
        last="proj_out",
    ),
    "SVD": Layout(
        "SVD_img2vid",
        dict(
            UNET | {"in_channels": 8, "use_temporal_attention": True, "use_temporal_resblock": True},
            extra_ff_mix_layer=True,
            use_spatial_context=True,
            merge_strategy="learned_with_images",
            merge_factor=0.0,
            video_kernel_size=[3, 1, 1],
            disable_temporal_crossattention=False,
            context_dim=64,
            num_head_channels=32,
            use_linear_in_transformer=True,
            adm_in_channels=768,
            num_classes="sequential",
        ),
        (2, 4, 8, 8),
        64,
        last="out.2",
    ),
    "LTXV": Layout(
        "LTXV",
        LTX | {"image_model": "ltxv"},
        (1, 128, 2, 4, 4),
        64,
        last="proj_out",
        extra={"attention_mask": torch.ones(1, 7, dtype=torch.long)},
    ),
    "LTXAV": Layout(
        "LTXAV",
        dict(
            LTX,
            image_model="ltxav",
            audio_in_channels=128,
            audio_cross_attention_dim=128,
            audio_attention_head_dim=64,
            audio_num_attention_heads=2,
            connector_attention_head_dim=64,
            connector_num_attention_heads=1,
            connector_num_layers=1,
        ),
        (1, 128, 2, 4, 4),
        128,
        last="proj_out",
        extra={"attention_mask": torch.ones(1, 7, dtype=torch.long)},
    ),
}


class SmallModels:
    """A base, its RL version beside the same weights and as a checkpoint, and both once more with their own weights."""

    def __init__(self, host: SimpleNamespace, name: str):
        self.host, self.name = host, name
        weights, lora = self._weights_and_lora()
        self.model = self.load(weights)
        self.rl_model = tiny.with_lora(host, self.model, lora)
        self.rl_alone = tiny.with_lora(host, self.load(weights), lora)
        merged = all_weights(host, self.rl_model)
        prefix = "diffusion_model."
        self.rl_weights = {k.removeprefix(prefix): v for k, v in merged.items() if k.startswith(prefix)}
        self.checkpoint = self.load(self.rl_weights)

    def _weights_and_lora(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if self.name == "SD3":
            return tiny.weights_of(tiny.load(self.host, tiny.sd3_transformer())), tiny.sd3_lora()
        network = self.empty().diffusion_model
        return self.random(network), lora_of(network)

    @cached_property
    def style(self) -> dict[str, Tensor]:
        """Another LoRA, as people put it on for a style."""
        return lora_of(self.model.model.diffusion_model, seed=8)

    @cached_property
    def merged(self) -> Any:
        """The RL model once more, its weights merged: for nodes that cannot take patches out of memory again."""
        return self.load(self.rl_weights)

    @cached_property
    def layout(self) -> Layout | None:
        return LAYOUTS.get(self.name)

    @cached_property
    def third(self) -> Any:
        """Another model of the same geometry, for merges."""
        if self.name == "SD3":
            return tiny.load(self.host, tiny.sd3_transformer(seed=4))
        return self.load(self.random(self.empty().diffusion_model, seed=4))

    def random(self, network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
        """Random weights whose predictions are about as large as a trained model's."""
        weights = random_weights(network, seed)
        weights[f"{self.layout.last}.weight"] *= 0.1 if "out.2" in self.layout.last else 0.2
        return weights

    def empty(self) -> Any:
        """The host's model without weights in it."""
        import comfy.supported_models

        unet = dict(self.layout.unet)
        if self.layout.params:
            unet = known_options(import_module(f"comfy.ldm.{self.layout.params}"), unet)
        config = getattr(comfy.supported_models, self.layout.config)(unet)
        config.unet_config |= {name: value for name, value in unet.items() if name in config.unet_extra_config}
        config.set_inference_dtype(torch.float32, None)
        return config.get_model({}, "", device=torch.device("cpu"))

    def load(self, weights: Mapping[str, Tensor]) -> Any:
        if self.name == "SD3":
            return tiny.load_weights(self.host, dict(weights))
        model = self.empty()
        model.diffusion_model.load_state_dict(cloned(weights))
        cpu = torch.device("cpu")
        return self.host.comfy.model_patcher.ModelPatcher(model.eval().requires_grad_(False), cpu, cpu)

    def conditioning(self, seed: int) -> list:
        if self.name == "SD3":
            return conditioning(seed)
        ((text, values),) = conditioning(seed, self.layout.text, self.layout.pooled)
        return [[text, values | self.layout.extra]]

    def sampling(self, **settings: Any) -> Sampling:
        defaults = {
            "steps": 2,
            "shape": (1, 16, 8, 8) if self.name == "SD3" else self.layout.latent,
            "positive": self.conditioning(11),
            "negative": self.conditioning(12),
        }
        return Sampling(**defaults | settings)


def lora_of(network: nn.Module, seed: int = 5) -> dict[str, Tensor]:
    """A LoRA on every linear layer of the numbered blocks, in the host's own names."""
    lora = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and any(part.isdigit() for part in name.split(".")):
            width, depth = module.weight.shape
            stem = f"diffusion_model.{name}"
            lora[f"{stem}.lora_up.weight"] = random(width, RANK, seed=seed, size=0.2 * RANK**-0.5)
            lora[f"{stem}.lora_down.weight"] = random(RANK, depth, seed=seed + 1, size=depth**-0.5)
    return lora
