"""What an adapter adds to one weight: `W_rl = W + delta_weight()`, and the same on activations, `apply(x)`.

Every term satisfies `linear(x, W + delta_weight()) == linear(x, W) + apply(x)`, for convolutions with the same
stride, padding, dilation and groups. Weights have shape `[out, in / groups, *kernel]`, the kernel empty for linear layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

Conv = Callable[[Tensor, Tensor], Tensor]
"""`conv(x, weight)`: a convolution with the stride, padding, dilation and groups of the module a term belongs to."""

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def plain_conv(x: Tensor, weight: Tensor) -> Tensor:
    """The convolution of stride 1 without padding, of the rank of `weight`'s kernel."""
    return CONVOLUTIONS[weight.ndim - 2](x, weight)


def _linear_or_conv(x: Tensor, weight: Tensor, conv: Conv) -> Tensor:
    """`weight` applied to `x`: linear for `[out, in]`, `conv` otherwise."""
    weight = weight.to(x.dtype)
    return functional.linear(x, weight) if weight.ndim == 2 else conv(x, weight)


def low_rank_product(x: Tensor, down: Tensor, up: Tensor, conv: Conv) -> Tensor:
    """`up` [out, r] after `down` [r, in / groups, *kernel], both in the dtype of `x`.

    In a grouped convolution each output channel sees its own group of inputs only, which no chain of two does: there
    the product of the two is applied.
    """
    if down.ndim == 2:
        return functional.linear(functional.linear(x, down), up)
    if x.shape[1] != down.shape[1]:
        return conv(x, (up @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:]))
    return plain_conv(conv(x, down), up.reshape(*up.shape, *[1] * (down.ndim - 2)))


@dataclass(frozen=True)
class LowRank:
    """`delta = scale * up @ down` (LoRA, Hu et al. 2106.09685 eq. 3); with `mid`, LyCORIS' Tucker form.

    `down` [r, in, *kernel], `up` [out, r] (or [out, r, 1, ...]), `mid` [r, r, *kernel] with a 1x1 `down`, or None.
    """

    up: Tensor
    down: Tensor
    scale: float = 1.0
    mid: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return (self.up.shape[0], self.down.shape[1], *kernel)

    def without_mid(self) -> LowRank:
        """The same term with the Tucker core folded into `down`."""
        if self.mid is None:
            return self
        down = torch.einsum("rs...,si->ri...", self.mid.float(), self.down.flatten(1).float())
        return LowRank(self.up, down, self.scale)

    def delta_weight(self) -> Tensor:
        term = self.without_mid()
        delta = term.up.flatten(1).float() @ term.down.flatten(1).float()
        return (delta * self.scale).reshape(self.shape)

    def apply(self, x: Tensor, conv: Conv = plain_conv) -> Tensor:
        term = self.without_mid()
        return low_rank_product(x, term.down.to(x.dtype), term.up.flatten(1).to(x.dtype), conv) * self.scale

    def scaled(self, factor: float) -> LowRank:
        return replace(self, scale=self.scale * factor)


@dataclass(frozen=True)
class Kronecker:
    """`delta = scale * kron(left, right)` (LyCORIS LoKr, 2309.14859 section 3): left [a, b], right [c, d, *kernel]."""

    left: Tensor
    right: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return (
            self.left.shape[0] * self.right.shape[0],
            self.left.shape[1] * self.right.shape[1],
            *self.right.shape[2:],
        )

    def delta_weight(self) -> Tensor:
        left = self.left.float().reshape(*self.left.shape, *[1] * (self.right.ndim - 2))
        # torch.kron cannot view a right factor that is not contiguous
        return torch.kron(left, self.right.float().contiguous()) * self.scale

    def apply(self, x: Tensor, conv: Conv = plain_conv) -> Tensor:
        if self.right.ndim > 2:
            return _linear_or_conv(x, self.delta_weight(), conv)
        grouped = x.unflatten(-1, (self.left.shape[1], self.right.shape[1]))
        hidden = functional.linear(grouped, self.right.to(x.dtype))
        mixed = torch.einsum("...bc,ab->...ac", hidden, self.left.to(x.dtype))
        return mixed.flatten(-2) * self.scale

    def scaled(self, factor: float) -> Kronecker:
        return replace(self, scale=self.scale * factor)


@dataclass(frozen=True)
class Hadamard:
    """`delta = scale * (up1 @ down1) * (up2 @ down2)`, element-wise (FedPara, 2108.06098; LoHa in LyCORIS).

    `left` and `right` are the two low-rank factors; their own scales count.
    """

    left: LowRank
    right: LowRank
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.left.shape

    def as_low_rank(self) -> LowRank:
        """The same term as one product of rank `r_left * r_right`: `(AB) * (CD) = (A . C)(B . D)`, Khatri-Rao products."""
        left, right = self.left.without_mid(), self.right.without_mid()
        up = torch.einsum("or,os->ors", left.up.flatten(1).float(), right.up.flatten(1).float()).flatten(1)
        down = torch.einsum("ri,si->rsi", left.down.flatten(1).float(), right.down.flatten(1).float())
        return LowRank(up, down.reshape(-1, *left.shape[1:]), self.scale * left.scale * right.scale)

    def delta_weight(self) -> Tensor:
        return self.left.delta_weight() * self.right.delta_weight() * self.scale

    def apply(self, x: Tensor, conv: Conv = plain_conv) -> Tensor:
        return _linear_or_conv(x, self.delta_weight(), conv)

    def scaled(self, factor: float) -> Hadamard:
        return replace(self, scale=self.scale * factor)


@dataclass(frozen=True)
class Delta:
    """`delta = scale * weight`, dense: what no smaller form holds exactly. Also a bias or norm, with ndim 1."""

    weight: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.weight.shape)

    def delta_weight(self) -> Tensor:
        return self.weight.float() * self.scale

    def apply(self, x: Tensor, conv: Conv = plain_conv) -> Tensor:
        return _linear_or_conv(x, self.weight, conv) * self.scale

    def scaled(self, factor: float) -> Delta:
        return replace(self, scale=self.scale * factor)


@dataclass(frozen=True)
class Decomposed:
    """DoRA (2402.09353 eq. 5) as PEFT trains it: `W_rl = magnitude * (W + delta) / |W + delta|`, the norms over all but
    the output axis (`axis` 1: all but the input axis, LyCORIS). Depends on the weight it is applied to: no `apply`.
    """

    inner: LowRank | Kronecker | Hadamard
    magnitude: Tensor
    axis: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.inner.shape

    def delta_weight(self, weight: Tensor) -> Tensor:
        weight = weight.float()
        directed = weight + self.inner.delta_weight().to(weight.device).reshape(weight.shape)
        norm = torch.linalg.vector_norm(directed, dim=[d for d in range(weight.ndim) if d != self.axis], keepdim=True)
        return self.magnitude.float().to(weight.device).reshape(norm.shape) * directed / norm - weight


@dataclass(frozen=True)
class Replace:
    """`W_rl = value`: a full tensor of an adapter (`modules_to_save`, `bias`)."""

    value: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    def delta_weight(self, weight: Tensor) -> Tensor:
        return self.value.float().to(weight.device) - weight.float()


AdditiveTerm = LowRank | Kronecker | Hadamard | Delta
Term = AdditiveTerm | Decomposed | Replace
