"""What every change of a weight can do, and how adapter files hold one kind of it.

A term turns a weight `W` into `W_rl = W + delta(W)`. Weights have shape `[out, in / groups, *kernel]`, with an empty
kernel for linear layers. An additive term is the same change for every `W`, so it can stand beside a module:
`linear(x, W + delta()) == linear(x, W) + apply(x)`. The same holds for convolutions, with the module's stride, padding,
dilation and groups.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import AdapterError

Shape = tuple[int, ...]
Conv = Callable[[Tensor, Tensor], Tensor]
"""`conv(x, weight)`: a convolution with the stride, padding, dilation and groups of the module a term belongs to."""

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def plain_conv(x: Tensor, weight: Tensor) -> Tensor:
    """Convolves with stride 1 and no padding, in as many dimensions as the kernel of `weight` has."""
    return CONVOLUTIONS[weight.ndim - 2](x, weight)


def linear_or_conv(x: Tensor, weight: Tensor, conv: Conv) -> Tensor:
    """Applies `weight` to `x`: as a linear layer for `[out, in]`, by `conv` otherwise."""
    weight = weight.to(x.dtype)
    return functional.linear(x, weight) if weight.ndim == 2 else conv(x, weight)


def halves_swapped(tensor: Tensor) -> Tensor:
    """`tensor` with the two halves of its first dimension in the other order."""
    return torch.roll(tensor, tensor.shape[0] // 2, 0)


def _differ_by_kernel_only(own: Shape, wanted: Shape) -> bool:
    """Whether two shapes hold the same elements and differ only in how a kernel is written."""
    same = len(own) > 0 and len(wanted) > 0 and own[0] == wanted[0] and math.prod(own) == math.prod(wanted)
    return same and (min(len(own), len(wanted)) <= 2 or all(size == 1 for size in own[2:]))


class Term(ABC):
    """One change of one weight. Subclasses are frozen dataclasses with their tensors as fields."""

    @property
    @abstractmethod
    def shape(self) -> Shape:
        """The shape of the weight this change is for."""

    @abstractmethod
    def delta(self, weight: Tensor | None = None) -> Tensor:
        """`W_rl - W` in float32. An additive term takes no notice of `weight`; every other one needs it."""

    @abstractmethod
    def swapped(self) -> Term:
        """The same change for a weight whose rows have their two halves in the other order."""

    @abstractmethod
    def reshaped(self, shape: Shape) -> Term:
        """The same change for a weight whose `shape` differs from this one only in how the kernel is written."""

    def additive(self, weight: Tensor) -> AdditiveTerm | None:
        """The same change of this one `weight` as an additive term smaller than it, or None if there is none."""
        return None

    def fitted(self, shape: Shape) -> Term | None:
        """The same change for a weight of `shape`, or None if this change does not fit such a weight.

        Raises `AdapterError`, saying why, for a weight that no trainer changes in this way.
        """
        if self.shape == shape:
            return self
        if not _differ_by_kernel_only(self.shape, shape):
            return None
        term = self.reshaped(shape)
        return term if term.shape == shape else None


class AdditiveTerm(Term):
    """A change that is the same for every weight, and so can be applied to activations."""

    @abstractmethod
    def apply(self, x: Tensor, conv: Conv = plain_conv) -> Tensor:
        """What the change adds to the module's output for the input `x`."""

    @abstractmethod
    def scaled(self, factor: float) -> AdditiveTerm:
        """`factor` times this change."""

    @abstractmethod
    def padded(self, at: tuple[int, int, int], shape: Shape) -> AdditiveTerm:
        """This change of the slice `at` (dimension, start, length) as a change of the whole weight of `shape`."""

    def cheapest(self) -> AdditiveTerm:
        """The same change in the form that is cheapest to apply to activations."""
        return self

    def as_parts(self) -> dict[str, Tensor] | None:
        """The tensors that hold this change in a ComfyUI LoRA file, or None if it has no such form."""
        return None


Parts = Mapping[str, Tensor]
"""The tensors of one module in an adapter file, by what they are: `up`, `down`, `alpha`, ..."""

ADAPTER = r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?"
"""PEFT puts the adapter's name (`default`, `old`) into the keys of raw state dicts."""


Options = Mapping[str, Any]
"""What a file's header and its PEFT config say, by name."""


@dataclass(frozen=True)
class Algebra:
    """How adapter files hold one kind of change.

    `endings` maps patterns of key endings to the part that the tensor is. `build` makes the terms of one module from
    its parts, by parameter name, at a given scale. `rank_parts` are the parts whose first dimension is the rank.
    `peft_type` is PEFT's name for this kind, and `peft_alpha` what PEFT's config calls alpha, if anything: nothing
    scales what is not `scaled`.
    """

    kind: str
    label: str
    endings: tuple[tuple[str, str], ...]
    build: Callable[[Parts, float, Options], dict[str, Term]]
    rank_parts: tuple[str, ...] = ()
    peft_type: str = ""
    peft_alpha: str = "alpha"
    scaled: bool = True

    @property
    def parts(self) -> frozenset[str]:
        return frozenset(part for _, part in self.endings)


def require(holds: bool, parts: Parts) -> None:
    """Raises `AdapterError` with the shapes of `parts` unless `holds`."""
    if not holds:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(parts.items()))
        raise AdapterError(f"the shapes do not fit together: {shapes}")
