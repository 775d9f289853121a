"""Every difference between releases of ComfyUI that matters here, and every reading of its internals.

One address for each, with the releases concerned and the reason. Nothing else in the pack asks which host it runs on.
"""

from __future__ import annotations

import ast
import inspect
import logging
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy.ldm.hunyuan_video.model import HunyuanVideo
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn

from ...rlg_core.errors import RLGError, WeightError

# Node schemas

NEWER_SCHEMA_FIELDS = frozenset({"search_aliases", "essentials_category", "has_intermediate_output"})
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

_WEIGHT_SCALES = ("scale_weight", "weight_scale", "weight_scale_2")  # 0.3.75 has the first, 0.30 the others
_QUANTISATION = (*_WEIGHT_SCALES, "scaled_fp8", "scale_input", "input_scale", "pre_quant_scale", "comfy_quant")


FP8_MARKER = "scaled_fp8"
"""The tensor by which older fp8 files say what they are, by its dtype alone: its values are whatever was in memory."""


def is_quantisation_key(name: str) -> bool:
    """Whether `name` is something that a host keeps beside a quantised weight, and not a weight itself."""
    return name.endswith(_QUANTISATION)


def is_norm(module: nn.Module) -> bool:
    """Whether `module` is affine in its parameters, row by row. Hosts define their own norms, under such names."""
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())


# Weights

READABLE = (
    "Load the same model from a safetensors (fp8 too) or GGUF file; or give base and RL model as two checkpoints that "
    "are both quantised so, for which no weight is read."
)
"""What to do about weights that cannot be read."""


def unpatched_weight(model: ModelPatcher, key: str) -> Tensor:
    """The weight under `key` before any patch, dequantised, in float32 on the device the model computes on.

    It has memory of its own. If the host has patched a weight in place, `backup` holds the original. Raises
    `WeightError` for a weight that cannot be read.
    """
    module, weight = _readable(model, key)
    if key in model.backup:
        weight = model.backup[key].weight
    if _is_packed(weight):
        return _unpacked(module, weight, model.load_device)
    if isinstance(weight, QuantizedTensor):  # a copy: 0.3.75 changes the dtype of the tensor itself
        return weight.detach().to(model.load_device).to(torch.float32).dequantize()
    weight = comfy.model_management.cast_to_device(weight, model.load_device, torch.float32, copy=True)
    convert = getattr(module, f"convert_{key.rpartition('.')[2]}", None)
    return weight if convert is None else convert(weight, inplace=True)


def weight_shape(model: ModelPatcher, key: str) -> tuple[int, ...]:
    """The shape of the weight under `key` once dequantised. Raises `WeightError` for a weight that cannot be read."""
    return _shape(_readable(model, key)[1])


def weight_shapes(root: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights below `root` once dequantised, without what stands beside quantised ones."""
    saved = root.state_dict().keys()  # has no shapes of packed weights, and entries that are no weights
    tensors = chain(root.named_parameters(), root.named_buffers())
    return {name: _shape(tensor) for name, tensor in tensors if name in saved and not is_quantisation_key(name)}


def _is_packed(weight: Any) -> bool:
    """Whether `weight` is one of ComfyUI-GGUF's: it says its `tensor_shape`, and its layer's `get_weight` reads it."""
    return isinstance(weight, Tensor) and hasattr(weight, "tensor_shape")


def refuse_opaque_layers(model: ModelPatcher) -> None:
    """Raises `WeightError` if `model` has quantised layers without any `weight` (Nunchaku's)."""
    for name, module in model.model.diffusion_model.named_modules():
        if _is_opaque(module):
            raise WeightError(f"{name}: {_made_by(module)} without readable weights. {READABLE}")


def _is_opaque(module: nn.Module) -> bool:
    if type(module).__module__.partition(".")[0] == "nunchaku":
        return True
    own = list(module.parameters(recurse=False))
    return getattr(module, "weight", None) is None and not all(tensor.dtype.is_floating_point for tensor in own)


def _readable(model: ModelPatcher, key: str) -> tuple[nn.Module, Tensor]:
    """The module of the weight under `key`, and the weight as it is held. Raises `WeightError` if it cannot be read."""
    path, name = key.rsplit(".", 1)
    module = model.model.get_submodule(path)
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor) or not _can_be_dequantised(module, weight):
        raise WeightError(f"{key}: {_made_by(module)}, in which the weight cannot be read. {READABLE}")
    if getattr(module, "pre_quant_scale", None) is not None:
        raise WeightError(
            f"{key}: a quantised layer that also scales its input (pre_quant_scale), where ComfyUI applies a change of "
            "the weight at another strength. Take a file without pre_quant_scale, or two checkpoints."
        )
    return module, weight


def _can_be_dequantised(module: nn.Module, weight: Tensor) -> bool:
    if _is_packed(weight):
        return hasattr(module, "get_weight") or _is_plain(weight)
    if isinstance(weight, QuantizedTensor):
        return True
    return _is_plain(weight) and type(weight) in (Tensor, nn.Parameter) and getattr(weight, "quant_state", None) is None


def _is_plain(weight: Tensor) -> bool:
    """Whether `weight` holds its values themselves, one element for each."""
    return weight.dtype.is_floating_point and tuple(Tensor.size(weight)) == _shape(weight)


def _unpacked(module: nn.Module, weight: Tensor, device: torch.device) -> Tensor:
    """A packed weight in float32, by the function with which its layer reads it when it runs.

    That function also applies the patches it finds on the tensor, and the tensor's own `clone` may return the tensor
    itself: so the function gets another view of the same bytes, without the patches.
    """
    bare = weight.data
    vars(bare).update({**vars(weight), "patches": []})
    read = getattr(module, "get_weight", None)
    whole = bare if read is None else read(bare.to(device), torch.float32)
    return whole.as_subclass(Tensor).to(device, torch.float32, copy=True)


def _shape(weight: Tensor) -> tuple[int, ...]:
    """The shape of a weight once dequantised: bitsandbytes keeps it beside the packed one."""
    return tuple(getattr(getattr(weight, "quant_state", None), "shape", None) or weight.shape)


def _made_by(module: nn.Module) -> str:
    return f"quantised layers of {type(module).__module__} ({type(module).__name__})"


def is_rounded_when_patched(model: ModelPatcher, key: str) -> bool:
    """Whether the host rounds this weight again after it has put a patch on it (fp8, NVFP4 and the like)."""
    _, weight = _readable(model, key)
    return isinstance(weight, QuantizedTensor) or (not _is_packed(weight) and weight.dtype.itemsize == 1)


def compute_dtype(model: BaseModel) -> torch.dtype:
    """The dtype of activations, to which the host casts stored weights (fp8, for example)."""
    return model.manual_cast_dtype or model.get_dtype()


CASTING = frozenset({"manual_cast_dtype"})
"""Object patches with which hosts also set `force_cast_weights` (ModelComputeDtype): without it layers do not cast."""


def stored_tensors(weight: Tensor) -> list[Tensor]:
    """The tensors that hold `weight`: itself, or of the host's quantised tensors the bits and their scales."""
    if not isinstance(weight, QuantizedTensor):
        return [weight]
    names, _ = weight.__tensor_flatten__()
    return [getattr(weight, name) for name in names]


_QUANTISED_CONFIGS = ("quant_config", "layer_quant_config", "scaled_fp8")
"""Where the config of a quantised model says so: 0.30 has the first, 0.3.75 the others."""


def is_quantised(config: Any) -> bool:
    """Whether the host found quantised layers in a file when it made this config of it."""
    return any(inspect.getattr_static(config, name, None) for name in _QUANTISED_CONFIGS)


def held_in_layers(tensors: dict[str, Tensor], metadata: dict[str, str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header with quantised layers described as this host's layers read them (0.30 renames older files)."""
    convert = getattr(comfy.utils, "convert_old_quants", None)
    return (tensors, metadata) if convert is None else convert(tensors, "", metadata=metadata)


@contextmanager
def filled(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> Iterator[None]:
    """Inside it, `module` holds `tensors`, loaded by its own method; their names are the module's after `prefix`.

    A scale that the file does not give is 1. Layers made for 8 bits round what the file holds at a higher precision
    (0.3.75).
    """
    scales = (name for name in module._parameters if name.endswith(_WEIGHT_SCALES))
    tensors = {**{prefix + name: torch.ones(()) for name in scales}, **tensors}
    narrow = {
        prefix + name: own.dtype for name, own in module._parameters.items() if own is not None and _is_8_bit(own)
    }
    tensors = {name: value.to(narrow.get(name, value.dtype)) for name, value in tensors.items()}
    before = dict(module._parameters), dict(module._buffers)
    made = getattr(module, "factory_kwargs", {})  # 0.30's and 0.3.75's quantised layers move weights to that device
    device, errors = made.get("device"), []
    try:
        if made:
            made["device"] = torch.device("cpu")
        module._load_from_state_dict(tensors, prefix, {"assign_to_params_buffers": True}, False, [], [], errors)
        if errors:
            raise WeightError(f"{prefix}: {'; '.join(errors)}")
        yield
    finally:
        if made:
            made["device"] = device
        module._parameters.clear(), module._buffers.clear()
        module._parameters.update(before[0]), module._buffers.update(before[1])


def _is_8_bit(weight: Tensor) -> bool:
    return weight.dtype.is_floating_point and weight.dtype.itemsize == 1


def source_file(model: ModelPatcher) -> Path | None:
    """The file that `model` was loaded from; None if it is not known. Stock loaders note it since 0.30."""
    _, arguments, *_ = getattr(model, "cached_patcher_init", None) or (None, ())
    return Path(arguments[0]) if arguments and isinstance(arguments[0], str) else None


def is_streamed(model: ModelPatcher) -> bool:
    """Whether the host leaves weights in their files (dynamic VRAM, since 0.30)."""
    return getattr(model, "is_dynamic", bool)()


def free_memory(model: BaseModel, device: torch.device) -> float:
    """Bytes free on `device`. On 0.30 only the patcher knows which weights could be evicted at once."""
    patcher = model.current_patcher
    return getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)(device)


OUT_OF_MEMORY = torch.cuda.OutOfMemoryError
"""An alias of `torch.OutOfMemoryError`, which torch before 2.5 lacks; the host's own name may be any exception."""

NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")
"""What the messages of torch's other allocators have in common, which raise a plain `RuntimeError` (CPU, MPS, XPU)."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an operation found no memory for its result."""
    return isinstance(error, OUT_OF_MEMORY) or any(words in str(error) for words in NO_MEMORY)


def without_dynamic(wanted: bool) -> dict[str, bool]:
    """The option of model loaders that switches dynamic VRAM off; 0.3.75 has neither."""
    return {"disable_dynamic": True} if wanted else {}


# What the host says in its log

_MISSING = {"unet": "unet missing:", "clip": "clip missing:", "vae": "Missing VAE keys"}
_UNEXPECTED = "unet unexpected:"


class MissingWeights(logging.Handler):
    """Collects what the host only logs: weights it did not find, and scales of quantised weights it does not know.

    Where a weight is missing it goes on with whatever was in memory, and without its scale a weight is another one.
    Some may be missing: an absent scale of a quantised file is 1, and some weights are never used.
    """

    def __init__(self, part: str = "unet") -> None:
        super().__init__(logging.WARNING)
        self.beginning = _MISSING[part]
        self.names: list[str] = []
        self.unknown_scales: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        said = record.getMessage()
        if said.startswith(self.beginning):
            names = _names(said, self.beginning)
            self.names += [name for name in names if not is_quantisation_key(name) and name not in UNUSED_WEIGHTS]
        if said.startswith(_UNEXPECTED):
            self.unknown_scales += [name for name in _names(said, _UNEXPECTED) if name.endswith(_WEIGHT_SCALES)]


def _names(said: str, before: str) -> list[str]:
    return ast.literal_eval(said.removeprefix(before).strip())


# Latents and conditionings

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


def weights_in_memory(model: BaseModel) -> Hashable:
    """Stands for the patches with which the weights of `model` are in memory now (both hosts)."""
    return model.current_weight_patches_uuid


READ_AHEAD = frozenset({"comfy.model_prefetch"})
"""The host's modules that move the weights of whole blocks before they run, those of idle layers too (0.30)."""


ONE_MASK = frozenset({"attention_mask"})


def conds_of_one_row(model: BaseModel) -> frozenset[str]:
    """The conditionings that `model` takes with one row for a batch of any size, and that fail with more.

    HunyuanVideo writes its text's mask, which prompts with an image have, into a mask of one row (both hosts). Its own
    graphs therefore cannot batch such prompts; base and RL model, which have the same prompt, can share the row.
    """
    return ONE_MASK if isinstance(model.diffusion_model, HunyuanVideo) else frozenset()


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
