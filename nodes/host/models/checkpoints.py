"""Loads the diffusion model in a file by the host's loaders, and checks it: whole, finite, of a known architecture."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import comfy.model_detection
import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

import nodes

from ....rlg_core.errors import AdapterError
from ....rlg_core.formats import map_model, model_files
from ....rlg_core.formats.container import SHARD, check_values, shard_advice
from ....rlg_core.formats.keys import plain_names
from ..compat import FP8_MARKER, MissingWeights, is_quantisation_key, without_dynamic
from .files import is_gguf

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

QUANTISED = "_quantization_metadata"
"""The header entry in which newer files list their quantised layers."""

Content = TypeVar("Content")

LOAD_ERRORS = (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError)
"""What a host raises on tensors that are no model, or not a whole one."""


def load_model(path: Path, options: Mapping[str, Any]) -> ModelPatcher:
    """The diffusion model in `path`, checked: whole, finite, and of an architecture the host knows.

    Raises `AdapterError`, naming file and key, if it is not.
    """
    if is_gguf(path):
        return load_gguf(path, options)
    file = map_model(path)
    for name, tensor in of_diffusion_model(path, file.tensors).items():
        if tensor.dtype.is_floating_point and not name.endswith(FP8_MARKER):
            check_values(path, name, tensor)
    return reload_model(str(path), dict(options))


def load_gguf(path: Path, options: Mapping[str, Any]) -> ModelPatcher:
    """The diffusion model in a GGUF file, by the loader of ComfyUI-GGUF, which maps its weights into memory.

    Raises `AdapterError` if that pack is not there.
    """
    loader = nodes.NODE_CLASS_MAPPINGS.get("UnetLoaderGGUF")
    if loader is None:
        raise AdapterError(f"{path}: a GGUF file, which needs ComfyUI-GGUF. Install it, or choose a .safetensors file.")
    if options:
        raise AdapterError(f"{path}: a GGUF file has dtypes of its own. Set weight_dtype to default.")
    roots = [Path(os.path.abspath(root)) for root in folder_paths.get_folder_paths("diffusion_models")]
    name = next((path.relative_to(root) for root in roots if path.is_relative_to(root)), None)
    if name is None:
        raise AdapterError(f"{path}: ComfyUI-GGUF loads files below models/diffusion_models. Move it there.")
    with whole_weights(str(path)):
        return loader().load_unet(str(name))[0]


def reload_model(path: str, options: dict[str, Any], disable_dynamic: bool = False) -> ModelPatcher:
    """The diffusion model in `path` alone. Also the factory in the host's `cached_patcher_init`, to load it again."""
    tensors, metadata = _state_dict(Path(path))
    names = ", ".join(list(tensors)[:3])
    load = _checkpoint_model if checkpoint_prefix(tensors) else _plain_model
    with whole_weights(path):
        model = load(tensors, dict(options), metadata=metadata, **without_dynamic(disable_dynamic))
    if model is None:
        raise unknown_model(path, names)
    model.cached_patcher_init = (reload_model, (path, options))
    return model


def unknown_model(path: str, names: str) -> AdapterError:
    """The error for a file in which the host finds no model; `names` are those of its first tensors."""
    is_part = SHARD.search(Path(path).stem) is not None
    expected = "Expected a checkpoint or diffusion model; load LoRA files with Load RL Adapter."
    return AdapterError(
        f"{path}: ComfyUI knows no diffusion model with these weights, first {names}. "
        + (shard_advice(Path(path)) if is_part else expected)
    )


def _state_dict(path: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """The tensors of the diffusion model in a file, or in the parts that a folder holds, as the host reads them."""
    read = [comfy.utils.load_torch_file(str(file), return_metadata=True) for file in model_files(path)]
    tensors = {name: tensor for tensors, _ in read for name, tensor in tensors.items()}
    return of_diffusion_model(path, tensors, read[0][1]), read[0][1]


def of_diffusion_model(
    path: Path, tensors: Mapping[str, Content], metadata: Mapping[str, str] | None = None
) -> dict[str, Content]:
    """What of `tensors` is the diffusion model's, by its own names, without what training and pipelines put around it.

    VAE and text encoders are left out; they are never read, since the file is mapped into memory.
    """
    kept = {name: new for name, new in plain_names(tensors).items() if not new.startswith(OTHER_PARTS)}
    inner = plain_names(kept.values())
    plain = {inner[new]: tensors[name] for name, new in kept.items()}
    if len(plain) < len(kept):
        raise AdapterError(f"{path}: several of its tensors have one name, apart from what training left around it.")
    if QUANTISED in (metadata or {}) and not plain.keys() <= tensors.keys():
        raise AdapterError(
            f"{path}: its header names quantised layers, but under names that training left around them."
        )
    return plain


def checkpoint_prefix(tensors: Mapping[str, Tensor]) -> str:
    """What the names of a checkpoint's diffusion model begin with; "" for a file with nothing else in it."""
    prefix = comfy.model_detection.unet_prefix_from_state_dict(tensors)
    return prefix if any(name.startswith(prefix) for name in tensors) else ""


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
def listening(part: str) -> Iterator[MissingWeights]:
    """What the host logs about weights while it loads `part` (unet, clip or vae) inside."""
    ear, root = MissingWeights(part), logging.getLogger()
    level = root.level
    root.addHandler(ear)
    root.setLevel(min(level, logging.WARNING))
    try:
        yield ear
    finally:
        root.setLevel(level)
        root.removeHandler(ear)


def reason_of(error: Exception) -> str:
    """Why the host could not load a model, from what it raised; running out of memory is raised again."""
    if isinstance(error, comfy.model_management.OOM_EXCEPTION):
        raise error
    reason = str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"
    return " ".join(reason.split())[:500]


@contextmanager
def whole_weights(path: str) -> Iterator[None]:
    """Raises `AdapterError` if the host fails to load a model inside, or loads one with weights missing."""
    try:
        with listening("unet") as heard:
            yield
    except LOAD_ERRORS as error:
        reason = reason_of(error)
        raise AdapterError(f"{path}: ComfyUI cannot load this file as a diffusion model ({reason}).") from error
    if heard.names:
        raise AdapterError(
            f"{path}: {len(heard.names)} weights are missing, first {', '.join(heard.names[:5])}. "
            f"The file is not whole. {shard_advice(Path(path))}"
        )
    if heard.unknown_scales:
        raise AdapterError(
            f"{path}: this ComfyUI does not know {len(heard.unknown_scales)} scales of its quantised weights, first "
            f"{heard.unknown_scales[0]}, and would sample with other weights. Update ComfyUI, or take another "
            "quantisation of the file."
        )
