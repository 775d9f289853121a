"""Full tensors: a dense difference, and a value that replaces the weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from .term import AdditiveTerm, Conv, Shape, Term, halves_swapped, linear_or_conv, plain_conv


@dataclass(frozen=True)
class Delta(AdditiveTerm):
    """`delta = scale * weight`, dense: for changes that no smaller form holds exactly, and for biases and norms."""

    weight: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> Shape:
        return tuple(self.weight.shape)

    def delta(self, weight: Tensor | None = None) -> Tensor:
        return self.weight.float() * self.scale

    def apply(self, x: Tensor, conv: Conv = plain_conv) -> Tensor:
        return linear_or_conv(x, self.weight, conv) * self.scale

    def scaled(self, factor: float) -> Delta:
        return replace(self, scale=self.scale * factor)

    def swapped(self) -> Delta:
        return replace(self, weight=halves_swapped(self.weight))

    def padded(self, at: tuple[int, int, int], shape: Shape) -> Delta:
        whole = self.weight.new_zeros(shape)
        whole.narrow(*at).copy_(self.weight)
        return replace(self, weight=whole)

    def reshaped(self, shape: Shape) -> Delta:
        return replace(self, weight=self.weight.reshape(shape))


@dataclass(frozen=True)
class Replace(Term):
    """`W_rl = value`: a full tensor of an adapter (`modules_to_save`, `bias`)."""

    value: Tensor

    @property
    def shape(self) -> Shape:
        return tuple(self.value.shape)

    def delta(self, weight: Tensor | None = None) -> Tensor:
        return self.value.float().to(weight.device) - weight.float()

    def swapped(self) -> Replace:
        return replace(self, value=halves_swapped(self.value))

    def reshaped(self, shape: Shape) -> Replace:
        return replace(self, value=self.value.reshape(shape))


PARAMETERS: dict[str, tuple[str, Callable[[Tensor], Term]]] = {
    "diff": ("weight", Delta),
    "diff_bias": ("bias", Delta),
    "weight": ("weight", Replace),
    "bias": ("bias", Replace),
    "parameter": ("", Replace),
}
"""Part -> the parameter it changes (an empty name if the key is itself a parameter), and its term."""

ENDINGS = (
    (r"\.diff", "diff"),
    (r"\.diff_b", "diff_bias"),
    (r"\.w_norm", "diff"),
    (r"\.b_norm", "diff_bias"),
    (r"\.set_weight", "weight"),
    (r"\.weight", "weight"),
    (r"\.bias", "bias"),
)
