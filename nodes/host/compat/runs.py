"""What hosts keep in options, conditionings, guiders and samplers while they sample."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

from comfy.controlnet import ControlLora
from comfy.ldm.hunyuan_video.model import HunyuanVideo
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher

from ....rlg_core.errors import RLGError

CASTING = frozenset({"manual_cast_dtype"})
"""Object patches with which hosts also set `force_cast_weights` (ModelComputeDtype): without it layers do not cast."""

_EMPTY_LATENT_RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")


def empty_latent_ratios(latent: Mapping[str, Any]) -> dict[str, Any]:
    """What empty latents say about themselves since 0.30, so that the host can fit them to the model."""
    return {name: latent[name] for name in _EMPTY_LATENT_RATIOS if name in latent}


def require_one_tensor(samples: Any, instead: str) -> None:
    """Raises `RLGError` for latents of several tensors, which newer hosts keep as one object of their own."""
    if samples.is_nested:
        raise RLGError(f"This latent holds several tensors (video with sound): {instead}")


STATELESS_OPTIONS = frozenset(
    {"callbacks", "cond_or_uncond", "context_window", "sample_sigmas", "sigmas", "uuids", "wrappers"}
)
"""What hosts put into `transformer_options` that carries no state of a node from call to call."""

CACHES_BY_UUID = frozenset({"easycache"})
"""Caches in `transformer_options` that tell conditionings, and so roles, apart by uuid (EasyCache, both hosts)."""


def is_answered_by_uuid(transformer_options: Mapping[str, Any]) -> bool:
    """Whether a cache that knows conditionings by uuid may answer for the whole network."""
    return not CACHES_BY_UUID.isdisjoint(transformer_options)


def caches_by_uuid(transformer_options: Mapping[str, Any]) -> list[Any]:
    """The caches that tell conditionings apart: each decides once per prediction whether all of it is skipped.

    LazyCache, under the same name, is none: it keeps whole steps (both hosts).
    """
    found = [transformer_options.get(name) for name in sorted(CACHES_BY_UUID)]
    return [cache for cache in found if hasattr(cache, "uuid_cache_diffs")]


def weights_in_memory(model: BaseModel) -> Hashable:
    """Stands for the patches with which the weights of `model` are in memory now (both hosts).

    None once another model has pushed it out.
    """
    return model.current_weight_patches_uuid


READ_AHEAD = frozenset({"comfy.model_prefetch", "comfy.model_patcher", "comfy.model_management"})
"""The host's modules that move weights, those of idle layers too: before blocks run (0.30), and to make room."""


CFG_FUNCTIONS = (
    "sampler_cfg_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "sampler_calc_cond_batch_function",
)
"""Where nodes put functions around CFG, in the model options (both hosts)."""


ONE_MASK = frozenset({"attention_mask"})


def conds_of_one_row(model: BaseModel) -> frozenset[str]:
    """The conditionings that `model` takes with one row for a batch of any size, and that fail with more.

    HunyuanVideo writes its text's mask, which prompts with an image have, into a mask of one row (both hosts). Its own
    graphs therefore cannot batch such prompts; base and RL model, which have the same prompt, can share the row.
    """
    return ONE_MASK if isinstance(model.diffusion_model, HunyuanVideo) else frozenset()


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


def reads_unconditional(sampler: Any) -> bool:
    """Whether a sampler reads the unconditional prediction of each step (CFG++, both hosts).

    The alternative version of SamplerEulerCFGpp is no CFG++ by name.
    """
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    return name.endswith("_cfg_pp") or name == "sample_euler_pp"


COPIED_BY_CONTROL_LORAS = frozenset({"input_blocks", "label_emb", "middle_block", "time_embed"})
"""The parts of a UNet that a Control-LoRA has too, and takes from the model when a run begins (both hosts)."""


def is_control_lora(control: Any) -> bool:
    """Whether a ControlNet makes its network of the weights of the model that it controls (both hosts)."""
    return isinstance(control, ControlLora)


def prepares_prompts(model: BaseModel) -> bool:
    """Whether `model` puts prompts through layers of its network before it samples.

    Anima, LTX-2 with sound and MiniMax H3 do, since 0.30: once in a run, with the weights that are in memory then.
    """
    return hasattr(model.diffusion_model, "preprocess_text_embeds")


def keeps_its_own_caches(sampler: Any) -> bool:
    """Whether a sampler holds keys and values for the one model that it runs (SamplerARVideo, since 0.30)."""
    return getattr(getattr(sampler, "sampler_function", None), "__name__", "") == "sample_ar_video"
