"""GLoRA: low-rank changes of the input and of the weight (arXiv 2306.07967), as LyCORIS trains them since 3.0."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import AdapterError
from .lora import LowRank, factors
from .term import Algebra, Options, Parts, Shape, Term, require


@dataclass(frozen=True)
class Generalized(Term):
    """`W_rl = W + scale * (W A + B)`: `a` [in, in] is a 1x1 change of the input, `b` one of the weight."""

    a: LowRank
    b: LowRank
    scale: float = 1.0

    @property
    def shape(self) -> Shape:
        return self.b.shape

    def delta(self, weight: Tensor | None = None) -> Tensor:
        # a kernel may be written as part of the input
        whole = weight.float().reshape(weight.shape[0], self.a.shape[0], -1)
        through = torch.einsum("oik,ij->ojk", whole, self.a.delta().to(weight.device))
        return self.scale * (through.reshape(weight.shape) + self.b.delta().to(weight.device).reshape(weight.shape))

    def additive(self, weight: Tensor) -> LowRank | None:
        """Of a linear layer: `W A + B` as one product, `[W a_up, b_up] @ [a_down, b_down]`."""
        if weight.ndim > 2 or self.a.rank + self.b.rank >= min(weight.shape) // 2:
            return None
        a_up, b_up = (term.up.float().to(weight.device) for term in (self.a, self.b))
        down = torch.cat([self.a.down.float(), self.b.down.float()])
        return LowRank(torch.cat([weight.float() @ a_up, b_up], 1).cpu(), down, self.scale)

    def swapped(self) -> Generalized:
        return replace(self, b=self.b.swapped())

    def reshaped(self, shape: Shape) -> Generalized:
        return replace(self, b=self.b.reshaped(shape))

    def fitted(self, shape: Shape) -> Term | None:
        if self.a.rank == shape[0] and self.shape[:2] != tuple(shape[:2]):
            raise AdapterError("its GLoRA factors are in the order of LyCORIS before 3.0, which cannot be loaded")
        return super().fitted(shape)


def _refuse_rslora(options: Options) -> None:
    """LyCORIS divides by the root of the rank then, and writes the same alpha: only the header can tell."""
    if re.search(r'"rs_lora":\s*"?true', str(options.get("ss_network_args")), re.IGNORECASE):
        raise AdapterError("a GLoRA of LyCORIS trained with rs_lora cannot be loaded")


def _build(parts: Parts, scale: float, options: Options) -> dict[str, Term]:
    _refuse_rslora(options)
    a = factors(parts, "a1", "a2", "", transposed=False)
    b = factors(parts, "b1", "b2", "bm", transposed=False)
    require(a.shape[0] == a.shape[1] and a.down[0, 0].numel() == 1, parts)
    return {"weight": Generalized(replace(a, down=a.down.flatten(1)), b.without_mid(), scale)}


GLORA = Algebra(
    kind="glora",
    label="GLoRA",
    endings=tuple((rf"\.{name}\.weight", name) for name in ("a1", "a2", "b1", "b2", "bm")),
    build=_build,
    rank_parts=("a2",),
)
