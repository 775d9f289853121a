"""The two sides of an extraction: models of the host with their values, or files that are read weight by weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import comfy.lora
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....rlg_core.formats.container import SAFETENSORS, map_tensors
from ....rlg_core.lowrank import rounding_energy
from ..compat import UNUSED_WEIGHTS, source_file, unpatched_weight

PIECE = 2**20
"""Numbers of a buffer that are compared at a time: position embeddings are larger than any weight."""

Pieces = Callable[[int], Iterable[Tensor]]
"""A tensor, flat, so many numbers at a time."""


class Side(Protocol):
    """Base or RL model of an extraction: the host's `model`, which need not hold values, and what reads them."""

    model: ModelPatcher

    def weight(self, key: str) -> Tensor:
        """The weight `key` in float32, on the device the model computes on, in memory of its own."""

    def rounding(self, key: str) -> float:
        """The squared norm of what rounding took from the weight `key`."""

    def buffers(self) -> Mapping[str, Pieces]:
        """The buffers of the network, by name."""

    def dtypes(self, name: str) -> list[torch.dtype]:
        """The dtypes that have rounded the buffer `name`."""


class Loaded:
    """A MODEL of the host as one side, its patches included."""

    def __init__(self, model: ModelPatcher):
        self.model = model
        path = source_file(model)
        known = path is not None and path.suffix.lower() in SAFETENSORS and path.is_file()
        self.file = map_tensors(path).tensors if known else {}

    def weight(self, key: str) -> Tensor:
        return effective_weight(self.model, key)

    def rounding(self, key: str) -> float:
        return rounding_energy(unpatched_weight(self.model, key))

    def buffers(self) -> Mapping[str, Pieces]:
        return {name: partial(_pieces, value) for name, value in self.model.model.diffusion_model.named_buffers()}

    def dtypes(self, name: str) -> list[torch.dtype]:
        """In memory, and in the file, where the host may find a narrower one."""
        held = self.model.model.diffusion_model.get_buffer(name).dtype
        return [held, *(tensor.dtype for key, tensor in self.file.items() if f".{key}".endswith(f".{name}"))]


def _pieces(value: Tensor, size: int) -> Iterable[Tensor]:
    return value.detach().flatten().split(size)


def effective_weight(model: ModelPatcher, key: str) -> Tensor:
    """The weight `key` as `model` samples with it, in float32 on the device the model computes on."""
    return comfy.lora.calculate_weight(model.patches.get(key, []), unpatched_weight(model, key), key)


def differing_buffers(base: Side, rl: Side) -> list[str]:
    """The buffers in which the two differ by more than rounding."""
    ours, theirs = base.buffers(), rl.buffers()
    names = [name for name in ours if name in theirs and name not in UNUSED_WEIGHTS]
    return [name for name in names if not _same(ours[name], theirs[name], [*base.dtypes(name), *rl.dtypes(name)])]


def _same(ours: Pieces, theirs: Pieces, dtypes: Sequence[torch.dtype]) -> bool:
    """Whether the two are equal up to rounding to any of `dtypes`. They may be on different devices."""
    rounding = [torch.finfo(dtype) for dtype in dtypes if dtype.is_floating_point]
    relative = max((dtype.eps for dtype in rounding), default=0.0)
    smallest = max((dtype.tiny * dtype.eps for dtype in rounding), default=0.0)

    def same(a: Tensor, b: Tensor) -> bool:
        return torch.equal(a, b) or torch.allclose(a, b, rtol=relative, atol=smallest)

    return all(same(a.cpu().double(), b.cpu().double()) for a, b in zip(ours(PIECE), theirs(PIECE), strict=True))
