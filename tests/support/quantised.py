"""Checkpoints in the quantised layouts that the hosts load, and what such a model computes with, told by its layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from . import tiny
from .tensors import cloned, random

Weights = dict[str, Tensor]
E4M3 = torch.float8_e4m3fn


def is_quantised(name: str, weight: Tensor) -> bool:
    """Files keep the layers around the blocks as they are."""
    return ".x_block." in name and name.endswith(".weight") and weight.ndim == 2


def scaled_fp8(
    weights: Weights, scale: str = "scale_weight", chosen: Callable[[str, Tensor], bool] = is_quantised
) -> Weights:
    """fp8 weights with a scale each, and the marker of such files. `chosen` tells which are quantised."""
    quantised = {"scaled_fp8": torch.full((2,), torch.nan).to(E4M3)}
    for name, value in weights.items():
        quantised[name] = value
        if chosen(name, value):
            step = value.abs().max() / 448.0
            quantised[name] = (value / step).to(E4M3)
            quantised[name.replace("weight", scale)] = step.float()
    return quantised


def described_fp8(weights: Weights) -> tuple[Weights, dict[str, str]]:
    """The same with the layers named in the header instead of a marker."""
    quantised = scaled_fp8(weights, "weight_scale")
    del quantised["scaled_fp8"]
    layers = {
        name.removesuffix(".weight"): {"format": "float8_e4m3fn"} for name in weights if quantised[name].dtype == E4M3
    }
    return quantised, {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}


def comfy_quant(weights: Weights, kind: str) -> Weights:
    """The layout of 0.30: each quantised layer says its format. Skips where the host lacks the format."""
    from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    if kind not in QUANT_ALGOS or not hasattr(QuantizedTensor, "state_dict"):
        pytest.skip(f"this host has no {kind}")
    conf = torch.tensor(list(json.dumps({"format": kind}).encode()), dtype=torch.uint8)
    options = {"scale": "recalculate"} if kind.startswith("float8") else {}
    quantised = {}
    for name, value in weights.items():
        quantised[name] = value
        if is_quantised(name, value):
            tensor = QuantizedTensor.from_float(value.clone(), QUANT_ALGOS[kind]["comfy_tensor_layout"], **options)
            quantised |= {key: held.contiguous() for key, held in tensor.state_dict(name).items()}
            quantised[name.replace("weight", "comfy_quant")] = conf
    return quantised


LAYOUTS: dict[str, Callable[[Weights], tuple[Weights, dict[str, str]]]] = {
    "plain": lambda weights: (weights, {}),
    "scaled_fp8": lambda weights: (scaled_fp8(weights), {}),
    "described_fp8": described_fp8,
    "nvfp4": lambda weights: (comfy_quant(weights, "nvfp4"), {}),
    "mxfp8": lambda weights: (comfy_quant(weights, "mxfp8"), {}),
    "int8_tensorwise": lambda weights: (comfy_quant(weights, "int8_tensorwise"), {}),
}


def save(weights: Weights, layout: str, path: Path) -> Path:
    """Writes `weights` as a file in `layout`."""
    tensors, metadata = LAYOUTS[layout](weights)
    save_file(cloned(tensors), path, metadata)
    return path


def rl_version(weights: Weights) -> Weights:
    """`weights` with changes of rank 2 in the attention."""
    tuned = cloned(weights)
    for name, value in tuned.items():
        if name.endswith(".attn.qkv.weight"):
            value += random(value.shape[0], 2, size=0.1) @ random(2, value.shape[1], size=0.1)
    return tuned


@torch.no_grad()
def dequantised(model: Any) -> Weights:
    """What every layer of `model` computes with: of a linear layer, what it makes of a unit matrix."""
    found = {}
    network = model.model.diffusion_model
    for name, weight in [*network.named_parameters(), *network.named_buffers()]:
        path, _, parameter = name.rpartition(".")
        module = network.get_submodule(path)
        if parameter == "weight" and hasattr(module, "in_features"):
            zero = module(torch.zeros(1, module.in_features))
            found[name] = (module(torch.eye(module.in_features)) - zero).T.clone()
        elif parameter in ("weight", "bias") or not path:
            found[name] = weight.detach().to(torch.float32)
    return found


def twin(host: SimpleNamespace, model: Any) -> Any:
    """A model with plain weights that computes what the quantised `model` computes."""
    return tiny.load_weights(host, dequantised(model))
