"""Every difference between releases of ComfyUI that matters here, and every reading of its internals.

One address for each, with the releases concerned and the reason. Nothing else in the pack asks which host it runs on.
"""

from __future__ import annotations

import ast
import inspect
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import comfy.model_management
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher, get_key_weight
from torch import Tensor, nn

# Node schemas

NEWER_SCHEMA_FIELDS = frozenset({"search_aliases", "essentials_category"})
"""0.3.75 does not know these fields of `io.Schema`, and raises on unknown ones."""


def known_fields(target: Callable[..., Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` for a call of `target`, without those that only newer hosts know."""
    known = inspect.signature(target).parameters
    return {name: value for name, value in fields.items() if name in known or name not in NEWER_SCHEMA_FIELDS}


# Names of parameters

WEIGHT_NAMES = ("weight", "scale")
"""What hosts call a module's main parameter: FLUX's norms have `scale` on 0.3.75 and `weight` on 0.30."""

UNUSED_WEIGHTS = ("norm_final.weight", "y_embedder.y_embedding")
"""Weights that a host makes and never uses (Z-Image and Lumina on 0.3.75, PixArt on both): files come without them."""

ONE_SIDED_VAE = ("encoder.", "quant_conv.")
"""A VAE without these still decodes."""

UNUSED_IN_CLIP = ("logit_scale", "text_projection.weight", "position_ids")
"""How weights of text encoders end that no conditioning uses, or that a host can do without."""

_QUANTISATION = (
    *("scaled_fp8", "scale_weight", "scale_input"),  # 0.3.75
    *("weight_scale", "weight_scale_2", "input_scale", "comfy_quant"),  # 0.30
)


def is_quantisation_key(name: str) -> bool:
    """Whether `name` is something that a host keeps beside a quantised weight, and not a weight itself."""
    return name.endswith(_QUANTISATION)


def is_norm(module: nn.Module) -> bool:
    """Whether `module` is affine in its parameters, row by row. Hosts define their own norms, under such names."""
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())


# Weights


def unpatched_weight(model: ModelPatcher, key: str) -> Tensor:
    """The weight under `key` before any patch, in float32 on the device the model computes on.

    If the host has patched a weight in place, `backup` holds the original. A quantised weight comes with the function
    that dequantises it.
    """
    weight, _, convert = get_key_weight(model.model, key)
    if key in model.backup:
        weight = model.backup[key].weight
    weight = comfy.model_management.cast_to_device(weight, model.load_device, torch.float32, copy=True)
    return convert(weight, inplace=True) if convert is not None else weight


def weight_shape(model: ModelPatcher, key: str) -> tuple[int, ...]:
    return tuple(get_key_weight(model.model, key)[0].shape)


def compute_dtype(model: BaseModel) -> torch.dtype:
    """The dtype of activations, to which the host casts stored weights (fp8, for example)."""
    return model.manual_cast_dtype or model.get_dtype()


def is_streamed(model: ModelPatcher) -> bool:
    """Whether the host leaves weights in their files (dynamic VRAM, since 0.30)."""
    return getattr(model, "is_dynamic", bool)()


def free_memory(model: BaseModel, device: torch.device) -> float:
    """Bytes free on `device`. On 0.30 only the patcher knows which weights could be evicted at once."""
    patcher = model.current_patcher
    return getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)(device)


OUT_OF_MEMORY = torch.cuda.OutOfMemoryError
"""An alias of `torch.OutOfMemoryError`, which torch before 2.5 lacks; the host's own name may be any exception."""


def without_dynamic(wanted: bool) -> dict[str, bool]:
    """The option of model loaders that switches dynamic VRAM off; 0.3.75 has neither."""
    return {"disable_dynamic": True} if wanted else {}


# What the host says in its log

_MISSING = {"unet": "unet missing:", "clip": "clip missing:", "vae": "Missing VAE keys"}


class MissingWeights(logging.Handler):
    """Collects the weights that the host did not find: it only logs them, and goes on with whatever was in memory.

    Some may be missing: an absent scale of a quantised file is 1, and some weights are never used.
    """

    def __init__(self, part: str = "unet") -> None:
        super().__init__(logging.WARNING)
        self.beginning = _MISSING[part]
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if said.startswith(self.beginning):
            names = ast.literal_eval(said.removeprefix(self.beginning).strip())
            self.names += [name for name in names if not is_quantisation_key(name) and name not in UNUSED_WEIGHTS]


# Latents and conditionings

_EMPTY_LATENT_RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


def empty_latent_ratios(latent: Mapping[str, Any]) -> dict[str, Any]:
    """What empty latents say about themselves since 0.30, so that the host can fit them to the model."""
    return {name: latent[name] for name in _EMPTY_LATENT_RATIOS if name in latent}


STATELESS_OPTIONS = frozenset(
    {"callbacks", "cond_or_uncond", "context_window", "sample_sigmas", "sigmas", "uuids", "wrappers"}
)
"""What hosts put into `transformer_options` that carries no state of a node from call to call."""

CACHES_BY_UUID = frozenset({"easycache"})
"""Caches in `transformer_options` that tell conditionings, and so roles, apart by uuid (EasyCache, both hosts)."""


def is_answered_by_uuid(transformer_options: Mapping[str, Any]) -> bool:
    """Whether a cache that knows conditionings by uuid may answer for the whole network."""
    return not CACHES_BY_UUID.isdisjoint(transformer_options)


# Guiders


def is_dual_model(guider: Any) -> bool:
    """Whether `guider` runs a second model with the options of the first (the Dual Model CFG Guider, since 0.30).

    At CFG 1 it runs its first model only.
    """
    return getattr(guider, "uncond_model_patcher", None) is not None and not math.isclose(guider.cfg, 1.0)


def is_split_over_gpus(model: ModelPatcher) -> bool:
    """Whether the MultiGPU node (since 0.30) has put deep clones of `model` on other devices."""
    return bool(model.get_additional_models_with_key("multigpu"))


def is_training(guider: Any, sampler: Any) -> bool:
    """Whether a node trains the model that it samples: Train LoRA, whose classes have these names on both hosts."""
    return type(guider).__name__ == "TrainGuider" or type(sampler).__name__ == "TrainSampler"


def keeps_its_own_caches(sampler: Any) -> bool:
    """Whether a sampler holds keys and values for the one model that it runs (SamplerARVideo, since 0.30)."""
    return getattr(getattr(sampler, "sampler_function", None), "__name__", "") == "sample_ar_video"
