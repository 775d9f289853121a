"""LoKr: a Kronecker product, either factor of which may be low-rank (LyCORIS, arXiv 2309.14859, section 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from .full import Delta
from .lora import factors
from .term import ADAPTER, AdditiveTerm, Algebra, Conv, Options, Parts, Shape, Term, linear_or_conv, plain_conv, require


@dataclass(frozen=True)
class Kronecker(AdditiveTerm):
    """`delta = scale * kron(left, right)`; `left` [a, b], `right` [c, d, *kernel]."""

    left: Tensor
    right: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> Shape:
        rows, columns = self.left.shape[0] * self.right.shape[0], self.left.shape[1] * self.right.shape[1]
        return (rows, columns, *self.right.shape[2:])

    def delta(self, weight: Tensor | None = None) -> Tensor:
        left = self.left.float().reshape(*self.left.shape, *[1] * (self.right.ndim - 2))
        # torch.kron cannot view a right factor that is not contiguous
        return torch.kron(left, self.right.float().contiguous()) * self.scale

    def apply(self, x: Tensor, conv: Conv = plain_conv) -> Tensor:
        if self.right.ndim > 2:
            return linear_or_conv(x, self.delta(), conv)
        grouped = x.unflatten(-1, (self.left.shape[1], self.right.shape[1]))
        hidden = functional.linear(grouped, self.right.to(x.dtype))
        mixed = torch.einsum("...bc,ab->...ac", hidden, self.left.to(x.dtype))
        return mixed.flatten(-2) * self.scale

    def scaled(self, factor: float) -> Kronecker:
        return replace(self, scale=self.scale * factor)

    def swapped(self) -> Delta:
        return Delta(self.delta()).swapped()

    def padded(self, at: tuple[int, int, int], shape: Shape) -> Delta:
        return Delta(self.delta()).padded(at, shape)

    def reshaped(self, shape: Shape) -> AdditiveTerm:
        columns = shape[1] if len(shape) > 1 else 1
        if columns % self.left.shape[1]:  # the kernel does not divide the right factor
            return Delta(self.delta()).reshaped(shape)
        right = self.right.reshape(self.right.shape[0], columns // self.left.shape[1], *shape[2:])
        return Kronecker(self.left, right, self.scale)

    def as_parts(self) -> dict[str, Tensor]:
        # With two full factors no alpha scales the product, so the scale goes into the smaller one.
        left = self.left if self.scale == 1.0 else self.left.float() * self.scale
        return {"lokr_w1": left, "lokr_w2": self.right}


def _factor(parts: Parts, name: str, core: str) -> Tensor:
    """One factor, which the file holds whole or as a low-rank product."""
    return parts[name] if name in parts else factors(parts, f"{name}_a", f"{name}_b", core, transposed=True).delta()


def _build(parts: Parts, scale: float, options: Options) -> dict[str, Term]:
    left, right = _factor(parts, "lokr_w1", ""), _factor(parts, "lokr_w2", "lokr_t2")
    require(left.ndim == 2 and right.ndim >= 2 and left.numel() > 0 and right.numel() > 0, parts)
    return {"weight": Kronecker(left, right, scale)}


NAMES = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")

LOKR = Algebra(
    kind="lokr",
    label="LoKr",
    endings=tuple((rf"\.{name}{ADAPTER}", name) for name in NAMES),
    build=_build,
    rank_parts=("lokr_w2_b", "lokr_w1_b"),
    peft_type="LOKR",
)
