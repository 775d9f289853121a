"""What nodes of third-party packs are given to show what they do: small models beside the one in question."""

from __future__ import annotations

import json
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from . import tiny
from .layouts import SmallModels
from .model_patches import operations, picture
from .node_inputs import Links, call, inputs_of
from .tensors import random, random_weights

SEEN = 64
"""How wide the small CLIP vision model's idea of a picture is: a square number, as IP-Adapter's tiles need it."""


def bad_version(models: SmallModels) -> dict[str, Any]:
    """A worse version of the model on the same weights."""
    return {"bad_model": tiny.with_lora(models.host, models.model, models.style), "debug_swap": False}


def image_adapter(models: SmallModels) -> dict[str, Any]:
    """An IP-Adapter as wide as the small UNets."""
    width = models.layout.text
    project = {"proj.weight": random(4 * width, SEEN, seed=1, size=0.3), "proj.bias": torch.zeros(4 * width)}
    norm = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    layers = {}
    for number in range(1, 33, 2):
        own = 64 if number == 31 else 32  # of the middle block, and of the others that the small UNets have
        for seed, name in enumerate(("to_k_ip", "to_v_ip")):
            layers[f"{number}.{name}.weight"] = random(own, width, seed=seed + number, size=0.3)
    return {"image_proj": project | norm, "ip_adapter": layers}


def image_prompt(models: SmallModels) -> dict[str, Any]:
    """What a CLIP vision model would make of a picture."""
    embeddings = {"pos_embed": random(1, SEEN, seed=3), "neg_embed": torch.zeros(1, SEEN)}
    return {"ipadapter": image_adapter(models), **embeddings}


def seen_picture(models: SmallModels) -> dict[str, Any]:
    """A picture, and a small CLIP vision model to look at it."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3}
    config = {**sizes, "hidden_act": "gelu", "image_size": 224, "num_channels": 3, "patch_size": 56}
    config |= {"model_type": "clip_vision_model", "layer_norm_eps": 1e-5, "projection_dim": SEEN}
    with tempfile.TemporaryDirectory() as folder:  # older releases read it from a file only
        file = Path(folder, "config.json")
        file.write_text(json.dumps(config), encoding="utf-8")
        vision = import_module("comfy.clip_vision").ClipVisionModel(str(file))
    vision.load_sd(random_weights(vision.model, seed=6))
    pipeline = {"ipadapter": {"model": image_adapter(models)}, "clipvision": {"model": vision}}
    return {"ipadapter": pipeline, "image": picture(), "layer_weights": "0:1.0,15:0.7"}


def scheduled_picture(models: SmallModels) -> dict[str, Any]:
    """The same, with settings that come from another node of the pack."""
    own = {"image": [picture()], "attn_mask": [None], "weight": [1.0], "weight_type": ["linear"]}
    return {**seen_picture(models), "ipadapter_params": {**own, "start_at": [0.0], "end_at": [1.0]}}


def moving(models: SmallModels) -> dict[str, Any]:
    """Where a video's objects are moved to."""
    return {"mask": torch.linspace(0, 1, 8).expand(1, 8, 8)}


def prompted(models: SmallModels) -> dict[str, Any]:
    """What RES4LYF's sampling nodes need on links that they call optional."""
    prompts = {"positive": models.conditioning(11), "negative": models.conditioning(12)}
    return {**prompts, "latent_image": {"samples": torch.zeros(models.sampling().shape)}, "cfg": 4.5}


def clown_sampler(models: SmallModels, node: str = "ClownSampler") -> dict[str, Any]:
    """A sampler of RES4LYF's own: some of its nodes set what stock ones do not have."""
    cls = models.host.classes[node]
    return {"sampler": call(cls, inputs_of(cls, models.model, Links(models), {}))[0]}


def shark(models: SmallModels) -> dict[str, Any]:
    return {**prompted(models), **clown_sampler(models, "ClownSampler_Beta")}


def half_sampled(models: SmallModels) -> dict[str, Any]:
    """A latent that RES4LYF has sampled to the half, with what it keeps in it to go on from there."""
    cls = models.host.classes["ClownsharKSampler_Beta"]
    given = {**prompted(models), "steps": 4, "steps_to_run": 2}
    latent = call(cls, inputs_of(cls, models.model, Links(models), given))[0]
    return {**shark(models), "latent_image": latent}


def upscaled(models: SmallModels) -> dict[str, Any]:
    """A picture to sample anew in four tiles."""
    network = import_module("comfy.taesd.taesd").TAESD(latent_channels=16)
    vae = models.host.comfy.sd.VAE(sd=random_weights(network, seed=6) | {"vae_scale": torch.tensor(4.0)})
    image = random(1, 64, 64, 3, seed=7).abs().clamp(max=1.0)
    tiles = {"tile_width": 64, "tile_height": 64, "tile_padding": 0, "mask_blur": 0, "upscale_model": None}
    prompts = {"positive": models.conditioning(11), "negative": models.conditioning(12)}
    return {**prompts, **tiles, "vae": vae, "image": image, "upscaled_image": image, "denoise": 1.0, "cfg": 4.5}


def controlled(models: SmallModels) -> dict[str, Any]:
    """A ControlNet as wide as the small UNet of SD1.5, and a picture for it."""
    unet = {name: value for name, value in models.layout.unet.items() if name in ("image_size", "in_channels")}
    unet |= {"model_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 1]}
    unet |= {"num_heads": 2, "context_dim": models.layout.text, "hint_channels": 3, "transformer_depth_middle": 1}
    network = import_module("comfy.cldm.cldm").ControlNet(
        **unet, use_spatial_transformer=True, legacy=False, **operations()
    )
    network.load_state_dict(random_weights(network, seed=8))
    control = import_module("comfy.controlnet").ControlNet(network.eval(), load_device=torch.device("cpu"))
    return {**prompted(models), "control_net": control, "image": random(1, 64, 64, 3, seed=1).sigmoid()}
