"""LoHa: the element-wise product of two low-rank matrices (FedPara, arXiv 2108.06098; LyCORIS)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .full import Delta
from .lora import LowRank, factors
from .term import ADAPTER, AdditiveTerm, Algebra, Conv, Options, Parts, Shape, Term, linear_or_conv, plain_conv, require


@dataclass(frozen=True)
class Hadamard(AdditiveTerm):
    """`delta = scale * (up1 @ down1) * (up2 @ down2)`, the second product element by element.

    `left` and `right` are the two low-rank factors; their own scales count.
    """

    left: LowRank
    right: LowRank
    scale: float = 1.0

    @property
    def shape(self) -> Shape:
        return self.left.shape

    def as_low_rank(self) -> LowRank:
        """The same change as one product of rank `r_left * r_right`.

        `(AB) * (CD) = (A . C)(B . D)`, where `.` is the Khatri-Rao product of columns (for A, C) or rows (for B, D).
        """
        left, right = self.left.without_mid(), self.right.without_mid()
        up = torch.einsum("or,os->ors", left.up.flatten(1).float(), right.up.flatten(1).float()).flatten(1)
        down = torch.einsum("ri,si->rsi", left.down.flatten(1).float(), right.down.flatten(1).float())
        return LowRank(up, down.reshape(-1, *left.shape[1:]), self.scale * left.scale * right.scale)

    def delta(self, weight: Tensor | None = None) -> Tensor:
        return self.left.delta() * self.right.delta() * self.scale

    def apply(self, x: Tensor, conv: Conv = plain_conv) -> Tensor:
        return linear_or_conv(x, self.delta(), conv)

    def cheapest(self) -> LowRank | Delta:
        """The low-rank product it equals, or the dense change if that is smaller."""
        low_rank = self.as_low_rank()
        out, *inner = low_rank.shape
        small = low_rank.rank * (out + math.prod(inner)) < out * math.prod(inner)
        return low_rank if small else Delta(self.delta())

    def scaled(self, factor: float) -> Hadamard:
        return replace(self, scale=self.scale * factor)

    def swapped(self) -> Hadamard:
        return replace(self, left=self.left.swapped(), right=self.right.swapped())

    def padded(self, at: tuple[int, int, int], shape: Shape) -> Delta:
        return Delta(self.delta()).padded(at, shape)

    def reshaped(self, shape: Shape) -> Hadamard:
        return replace(self, left=self.left.reshaped(shape), right=self.right.reshaped(shape))

    def as_parts(self) -> dict[str, Tensor]:
        left, right = self.left.without_mid(), self.right.without_mid()
        alpha = self.scale * left.scale * right.scale * left.rank
        return {
            "hada_w1_a": left.up,
            "hada_w1_b": left.down.flatten(1),
            "hada_w2_a": right.up,
            "hada_w2_b": right.down.flatten(1),
            "alpha": torch.tensor(float(alpha)),
        }


def _build(parts: Parts, scale: float, options: Options) -> dict[str, Term]:
    left = factors(parts, "hada_w1_a", "hada_w1_b", "hada_t1", transposed=True)
    right = factors(parts, "hada_w2_a", "hada_w2_b", "hada_t2", transposed=True)
    require(left.shape == right.shape, parts)
    return {"weight": Hadamard(left, right, scale)}


NAMES = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")

LOHA = Algebra(
    kind="loha",
    label="LoHa",
    endings=tuple((rf"\.{name}{ADAPTER}", name) for name in NAMES),
    build=_build,
    rank_parts=("hada_w1_b",),
    peft_type="LOHA",
)
