"""Weights as they are before any patch, whatever the host or another pack packs them in."""

from __future__ import annotations

from itertools import chain
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QuantizedTensor
from torch import Tensor, nn

from ....rlg_core.errors import WeightError
from .names import is_quantisation_key

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


def compute_dtype(model: ModelPatcher) -> torch.dtype:
    """The dtype of activations, to which the host casts stored weights (fp8, for example).

    As `model` has it, whatever another clone (ModelComputeDtype) has put in its place in memory.
    """
    return model.get_model_object("manual_cast_dtype") or model.model.get_dtype()


def stored_tensors(weight: Tensor) -> list[Tensor]:
    """The tensors that hold `weight`: itself, or of the host's quantised tensors the bits and their scales."""
    if not isinstance(weight, QuantizedTensor):
        return [weight]
    names, _ = weight.__tensor_flatten__()
    return [getattr(weight, name) for name in names]
