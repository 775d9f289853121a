"""Loads the diffusion model in a file by the host's loaders, and checks it: whole, finite, of a known architecture."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_detection
import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....rlg_core.errors import AdapterError
from ....rlg_core.formats.container import check_values, map_tensors
from ..compat import MissingWeights, is_quantisation_key, without_dynamic

WEIGHT_DTYPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}
"""The choices of the stock UNETLoader, and the host's options that they stand for."""

OTHER_PARTS = (
    "first_stage_model.",
    "cond_stage_model.",
    "conditioner.",
    "text_encoders.",
    "text_encoder.",
    "vae.",
    "pretransform.",
)
"""Prefixes of VAE and text encoders in a checkpoint. Any other entry may say how the model samples (`v_pred`)."""


def load_model(path: Path, options: Mapping[str, Any]) -> ModelPatcher:
    """The diffusion model in `path`, checked: whole, finite, and of an architecture the host knows.

    Raises `AdapterError`, naming file and key, if it is not.
    """
    file = map_tensors(path)
    for name, tensor in _of_diffusion_model(file.tensors).items():
        if tensor.dtype.is_floating_point:
            check_values(path, name, tensor)
    return reload_model(str(path), dict(options))


def reload_model(path: str, options: dict[str, Any], disable_dynamic: bool = False) -> ModelPatcher:
    """The diffusion model in `path` alone. Also the factory in the host's `cached_patcher_init`, to load it again."""
    tensors, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
    tensors = _of_diffusion_model(tensors)
    names = ", ".join(list(tensors)[:3])
    load = _checkpoint_model if _is_checkpoint(tensors) else _plain_model
    with _whole_weights(path):
        model = load(tensors, dict(options), metadata=metadata, **without_dynamic(disable_dynamic))
    if model is None:
        raise AdapterError(
            f"{path}: ComfyUI knows no diffusion model with these weights, first {names}. Expected a checkpoint or "
            "diffusion model; load LoRA files with Load RL Adapter."
        )
    model.cached_patcher_init = (reload_model, (path, options))
    return model


def _of_diffusion_model(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` without VAE and text encoders, which are never read since the file is memory-mapped."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(OTHER_PARTS)}


def _is_checkpoint(tensors: Mapping[str, Tensor]) -> bool:
    prefix = comfy.model_detection.unet_prefix_from_state_dict(tensors)
    return any(name.startswith(prefix) for name in tensors)


def _plain_model(tensors: dict[str, Tensor], options: dict[str, Any], **rest: Any) -> ModelPatcher | None:
    """The model of a file with nothing else in it, in the host's or diffusers' layout; None if it is unknown."""
    return comfy.sd.load_diffusion_model_state_dict(tensors, model_options=options, **rest)


def _checkpoint_model(tensors: dict[str, Tensor], options: dict[str, Any], **rest: Any) -> ModelPatcher | None:
    """The model of a checkpoint, with the settings stored beside its weights (`v_pred`); None if it is unknown."""
    # The host's checkpoint loader offers no choice of fp8 arithmetic: give it the operations its UNETLoader would pick.
    # For a quantised file it picks its own, which know the scales.
    quantised = any(map(is_quantisation_key, tensors))
    if options.pop("fp8_optimizations", False) and not quantised and comfy.model_management.supports_fp8_compute():
        options["custom_operations"] = comfy.ops.fp8_ops
    parts = {"output_vae": False, "output_clip": False}
    loaded = comfy.sd.load_state_dict_guess_config(tensors, **parts, model_options=options, **rest)
    return None if loaded is None else loaded[0]


@contextmanager
def _whole_weights(path: str) -> Iterator[None]:
    """Raises `AdapterError` if the host fails to load a model inside, or loads one with weights missing."""
    ear, root = MissingWeights(), logging.getLogger()
    level = root.level
    root.addHandler(ear)
    root.setLevel(min(level, logging.WARNING))
    try:
        yield
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, comfy.model_management.OOM_EXCEPTION):
            raise
        reason = str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"
        raise AdapterError(f"{path}: ComfyUI cannot load this file as a diffusion model ({reason}).") from error
    finally:
        root.setLevel(level)
        root.removeHandler(ear)
    if ear.names:
        names = ", ".join(ear.names[:5])
        raise AdapterError(
            f"{path}: {len(ear.names)} weights are missing, first {names}. "
            "The file is not whole; download it or save it again."
        )
