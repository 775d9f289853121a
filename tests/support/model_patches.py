"""Small versions of the networks that nodes put beside a model: the host's own classes, with random weights."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch

from .layouts import SmallModels
from .tensors import random, random_weights

IMAGE = (48, 48)
"""The size of pictures that nodes encode: another than the latents', so that they encode them anew while sampling."""


def picture(frames: int = 1) -> torch.Tensor:
    return random(frames, *IMAGE, 3, seed=7).abs().clamp(max=1.0)


def loaded(host: SimpleNamespace, network: torch.nn.Module) -> Any:
    """A network with random weights, under the host's management."""
    network.load_state_dict(random_weights(network, seed=6))
    cpu = torch.device("cpu")
    return host.comfy.model_patcher.ModelPatcher(network.eval().requires_grad_(False), cpu, cpu)


def vae(host: SimpleNamespace) -> Any:
    """The host's tiny autoencoder for videos of 16 channels."""
    network = import_module("comfy.taesd.taehv").TAEHV(latent_channels=16, latent_format=None)
    return host.comfy.sd.VAE(sd=random_weights(network, seed=6))


def operations() -> dict[str, Any]:
    return {"operations": import_module("comfy.ops").manual_cast, "dtype": torch.float32}


def extras() -> Any:
    return import_module("comfy_extras.nodes_model_patch")


def qwen_control(models: SmallModels) -> dict[str, Any]:
    network = extras().QwenImageBlockWiseControlNet(num_layers=2, dim=128, **operations())
    return {
        "model_patch": loaded(models.host, network),
        "vae": vae(models.host),
        "image": picture(),
    }


def uso_style(models: SmallModels) -> dict[str, Any]:
    network = extras().SigLIPMultiFeatProjModel(9, 4, 16, 128, **operations())
    seen = SimpleNamespace(
        all_hidden_states=random(1, 27, 9, 16, seed=4), penultimate_hidden_states=random(1, 9, 16, seed=5)
    )
    return {"model_patch": loaded(models.host, network), "clip_vision_output": seen}


def wan_camera(models: SmallModels) -> dict[str, Any]:
    network = import_module("comfy.ldm.wan.uni3c").WanUni3CControlnet(
        conv_out_dim=128,
        dim=48,
        ffn_dim=64,
        num_heads=1,
        num_layers=2,
        time_embed_dim=128,
        out_proj_dim=128,
        mid_channels=16,
        **operations(),
    )
    return {
        "model_patch": loaded(models.host, network),
        "vae": vae(models.host),
        "render_video": picture(5),
    }
