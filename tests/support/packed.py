"""Small stand-ins for layers that other packs quantise, each for how its weight is held and read.

`load`: blocks of numbers with a scale each, in a tensor of bytes that says the shape of the weight; the layer's
`get_weight` reads it, and applies the patches that the pack's patcher leaves on the tensor. `nf4_layer`: bytes, with
the shape beside them. `opaque_layer`: no `weight` at all.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

BLOCK = 32
LEVELS = {8: 127, 4: 7}
"""Bits of a packed number -> the largest one."""


class PackedTensor(Tensor):
    """The bytes of a weight: a float16 scale before each block of numbers, one byte each; with `bits` 0, the weight."""

    def __new__(cls, data: Tensor, shape: torch.Size, bits: int) -> PackedTensor:
        return super().__new__(cls, data)

    def __init__(self, data: Tensor, shape: torch.Size, bits: int):
        super().__init__()
        self.tensor_shape, self.bits, self.patches = shape, bits, []

    def to(self, *args: Any, **kwargs: Any) -> PackedTensor:
        moved = super().to(*args, **kwargs)
        moved.tensor_shape, moved.bits, moved.patches = self.tensor_shape, self.bits, list(self.patches)
        return moved

    def clone(self, *args: Any, **kwargs: Any) -> PackedTensor:
        return self

    def detach(self) -> PackedTensor:
        return self

    @property
    def shape(self) -> torch.Size:
        return vars(self).get("tensor_shape", self.size())


def pack(weight: Tensor, bits: int) -> PackedTensor:
    """`weight` at `bits` per number; one of another shape than a linear layer's stays as it is."""
    if weight.ndim != 2 or weight.shape[1] % BLOCK:
        return PackedTensor(weight.clone(), weight.shape, 0)
    blocks = weight.float().reshape(-1, BLOCK)
    scale = (blocks.abs().amax(1, keepdim=True) / LEVELS[bits]).half()
    numbers = (blocks / scale.float()).round().clamp(-LEVELS[bits], LEVELS[bits]).to(torch.int8)
    data = torch.cat([scale.view(torch.uint8), numbers.view(torch.uint8)], dim=1)
    return PackedTensor(data.reshape(weight.shape[0], -1), weight.shape, bits)


def unpack(packed: PackedTensor) -> Tensor:
    data = packed.as_subclass(Tensor)
    if not packed.bits:
        return data.float()
    scale, numbers = data.reshape(-1, BLOCK + 2).split([2, BLOCK], dim=1)
    whole = scale.contiguous().view(torch.float16).float() * numbers.contiguous().view(torch.int8).float()
    return whole.reshape(packed.tensor_shape)


def load(host: SimpleNamespace, weights: dict[str, Tensor], bits: int) -> Any:
    """A MODEL with packed linear layers, under a patcher that leaves patches on their tensors."""
    packed = {name: pack(value, bits) for name, value in weights.items()}
    options = {"custom_operations": _operations(host)}
    model = host.comfy.sd.load_diffusion_model_state_dict(packed, model_options=options)
    model.__class__ = _patcher(host)
    return model


def _operations(host: SimpleNamespace) -> type:
    comfy = host.comfy

    class Linear(comfy.ops.manual_cast.Linear):
        def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
            nn.Module.__init__(self)
            self.in_features, self.out_features, self.weight, self.bias = in_features, out_features, None, None

        def _load_from_state_dict(self, state_dict, prefix, *rest):
            for name in ("weight", "bias"):
                if f"{prefix}{name}" in state_dict:
                    setattr(self, name, nn.Parameter(state_dict[f"{prefix}{name}"], requires_grad=False))

        def _save_to_state_dict(self, destination, prefix, keep_vars):
            for name, held in self._parameters.items():
                if held is not None:  # sizes for the host's memory estimate
                    destination[f"{prefix}{name}"] = torch.empty(held.size(), dtype=held.dtype, device="meta")

        def get_weight(self, packed, dtype):
            weight = unpack(packed).to(dtype)
            for patches, key in packed.patches:
                weight = comfy.lora.calculate_weight(patches, weight, key)
            return weight

        def forward_comfy_cast_weights(self, x):
            bias = None if self.bias is None else self.get_weight(self.bias.to(x.device), x.dtype)
            return linear(x, self.get_weight(self.weight.to(x.device), x.dtype), bias)

    return type("Operations", (comfy.ops.manual_cast,), {"Linear": Linear})


def _patcher(host: SimpleNamespace) -> type:
    class PackedPatcher(host.comfy.model_patcher.ModelPatcher):
        def patch_weight_to_device(self, key, device_to=None, inplace_update=False, **options):
            held = host.comfy.utils.get_attr(self.model, key)
            if isinstance(held, PackedTensor) and key in self.patches:
                held.patches = [(self.patches[key], key)]
            elif key in self.patches:
                super().patch_weight_to_device(key, device_to, inplace_update, **options)

        def unpatch_model(self, device_to=None, unpatch_weights=True):
            for held in self.model.parameters():
                if isinstance(held, PackedTensor) and unpatch_weights:
                    held.patches = []
            return super().unpatch_model(device_to, unpatch_weights)

    return PackedPatcher


class Linear4bit(nn.Module):
    """Holds two numbers to a byte, and the shape of the weight beside them."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        weight = layer.weight.detach()
        self.step = weight.abs().max() / 7
        numbers = ((weight / self.step).round() + 8).to(torch.uint8).reshape(-1, 2)
        self.weight = nn.Parameter((numbers[:, :1] << 4) | numbers[:, 1:], requires_grad=False)
        self.weight.quant_state = SimpleNamespace(shape=weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        numbers = torch.cat([self.weight >> 4, self.weight & 15], dim=1).to(x.dtype) - 8
        weight = numbers.reshape(self.weight.quant_state.shape) * self.step.to(x.dtype)
        return linear(x, weight, self.bias)


class SVDQW4A4Linear(nn.Module):
    """Holds its numbers under another name than `weight`."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        scales = layer.weight.detach().abs().amax(1, keepdim=True) / 127
        self.wscales = nn.Parameter(scales, requires_grad=False)
        self.qweight = nn.Parameter((layer.weight.detach() / scales).round().to(torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.qweight.to(x.dtype) * self.wscales.to(x.dtype), self.bias)


Linear4bit.__module__, SVDQW4A4Linear.__module__ = "bitsandbytes.nn.modules", "nunchaku.models.linear"


def with_layers(model: Any, kind: type[nn.Module]) -> Any:
    """`model` with the linear layers of its attention made into layers of `kind`."""
    network = model.model.diffusion_model
    for name, layer in list(network.named_modules()):
        if name.endswith(".attn.qkv"):
            network.set_submodule(name, kind(layer))
    return model
