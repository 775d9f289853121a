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
from .model_patches import picture
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
