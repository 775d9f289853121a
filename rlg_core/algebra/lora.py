"""LoRA: `delta = scale * up @ down` (Hu et al., arXiv 2106.09685, eq. 3), and LyCORIS' Tucker form of it (LoCon)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from .full import Delta
from .term import ADAPTER, AdditiveTerm, Algebra, Conv, Options, Parts, Shape, Term, halves_swapped, plain_conv, require


def low_rank_product(x: Tensor, down: Tensor, up: Tensor, conv: Conv) -> Tensor:
    """Applies `down` [r, in / groups, *kernel], then `up` [out, r]; both have the dtype of `x`.

    In a grouped convolution each output channel sees only its own group of inputs, which no chain of two layers can
    do. There the product of the two is applied.
    """
    if down.ndim == 2:
        return functional.linear(functional.linear(x, down), up)
    if x.shape[1] != down.shape[1]:
        return conv(x, (up @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:]))
    return plain_conv(conv(x, down), up.reshape(*up.shape, *[1] * (down.ndim - 2)))


@dataclass(frozen=True)
class LowRank(AdditiveTerm):
    """`delta = scale * up @ down`, with LyCORIS' Tucker core `mid` between the two if there is one.

    `down` [r, in, *kernel], `up` [out, r] (or [out, r, 1, ...]), `mid` None or [r, r, *kernel] beside a 1x1 `down`.
    """

    up: Tensor
    down: Tensor
    scale: float = 1.0
    mid: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> Shape:
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return (self.up.shape[0], self.down.shape[1], *kernel)

    def without_mid(self) -> LowRank:
        """The same change with the Tucker core folded into `down`."""
        if self.mid is None:
            return self
        down = torch.einsum("rs...,si->ri...", self.mid.float(), self.down.flatten(1).float())
        return LowRank(self.up, down, self.scale)

    def delta(self, weight: Tensor | None = None) -> Tensor:
        term = self.without_mid()
        delta = term.up.flatten(1).float() @ term.down.flatten(1).float()
        return (delta * self.scale).reshape(self.shape)

    def apply(self, x: Tensor, conv: Conv = plain_conv) -> Tensor:
        term = self.without_mid()
        return low_rank_product(x, term.down.to(x.dtype), term.up.flatten(1).to(x.dtype), conv) * self.scale

    def scaled(self, factor: float) -> LowRank:
        return replace(self, scale=self.scale * factor)

    def swapped(self) -> LowRank:
        return replace(self, up=halves_swapped(self.up))

    def padded(self, at: tuple[int, int, int], shape: Shape) -> LowRank:
        term, (dim, start, length) = self.without_mid(), at
        before_and_after = (start, shape[dim] - start - length)
        if dim == 0:
            return replace(term, up=functional.pad(term.up.flatten(1), (0, 0, *before_and_after)))
        return replace(term, down=functional.pad(term.down.flatten(1), before_and_after))

    def reshaped(self, shape: Shape) -> LowRank:
        term = self.without_mid()
        return LowRank(term.up.flatten(1), term.down.reshape(-1, *shape[1:]), term.scale)


def factors(parts: Parts, up: str, down: str, mid: str, transposed: bool) -> LowRank:
    """The product of the parts named `up` and `down`, with the Tucker core `mid` between them if there is one.

    LyCORIS' LoHa and LoKr store `up` `transposed` beside a core.
    """
    a, b, core = parts[up], parts[down], parts.get(mid)
    if core is not None and transposed and a.ndim == 2:
        a = a.T
    require(a.ndim >= 2 and b.ndim >= 2 and a[0, 0].numel() == 1 and 0 < a.shape[1] == b.shape[0], parts)
    if core is not None:
        require(core.ndim >= 2 and tuple(core.shape[:2]) == (b.shape[0],) * 2 and b[0, 0].numel() == 1, parts)
        b = b.flatten(1)
    return LowRank(a.flatten(1), b, mid=core)


def _build(parts: Parts, scale: float, options: Options) -> dict[str, Term]:
    terms: dict[str, Term] = {"weight": factors(parts, "up", "down", "mid", transposed=False).scaled(scale)}
    if "up_bias" in parts:
        terms["bias"] = Delta(parts["up_bias"], scale)
    return terms


LORA = Algebra(
    kind="lora",
    label="LoRA",
    endings=(
        # PEFT, and diffusers since it uses PEFT
        (rf"\.lora_A{ADAPTER}(?:\.weight)?", "down"),
        (rf"\.lora_B{ADAPTER}(?:\.weight)?", "up"),
        (rf"\.lora_B{ADAPTER}\.bias", "up_bias"),
        # diffusers before PEFT: attention processors, and the text encoders' linear layers
        (r"(?:_lora|\.lora|\.lora_linear_layer)\.down\.weight", "down"),
        (r"(?:_lora|\.lora|\.lora_linear_layer)\.up\.weight", "up"),
        # kohya and LyCORIS LoCon
        (r"\.lora_down\.weight", "down"),
        (r"\.lora_up\.weight", "up"),
        (r"\.lora_mid\.weight", "mid"),
    ),
    build=_build,
    rank_parts=("down",),
    peft_type="LORA",
    peft_alpha="lora_alpha",
)
