"""DoRA: another term changes the direction, and the magnitudes are trained apart (arXiv 2402.09353, eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .term import ADAPTER, AdditiveTerm, Parts, Shape, Term, halves_swapped, require


@dataclass(frozen=True)
class Decomposed(Term):
    """`W_rl = magnitude * (W + delta) / |W + delta|`, as PEFT trains it.

    The norms run over all dimensions but `axis`: 0 is the output's, 1 the input's, which LyCORIS also offers.
    """

    inner: AdditiveTerm
    magnitude: Tensor
    axis: int = 0

    @property
    def shape(self) -> Shape:
        return self.inner.shape

    def delta(self, weight: Tensor | None = None) -> Tensor:
        weight = weight.float()
        directed = weight + self.inner.delta().to(weight.device).reshape(weight.shape)
        others = [dim for dim in range(weight.ndim) if dim != self.axis]
        norm = torch.linalg.vector_norm(directed, dim=others, keepdim=True)
        return self.magnitude.float().to(weight.device).reshape(norm.shape) * directed / norm - weight

    def swapped(self) -> Decomposed:
        magnitude = self.magnitude if self.axis else halves_swapped(self.magnitude)
        return replace(self, inner=self.inner.swapped(), magnitude=magnitude)

    def reshaped(self, shape: Shape) -> Decomposed:
        return replace(self, inner=self.inner.reshaped(shape))


PARTS = ("magnitude", "dora_scale")
ENDINGS = ((rf"\.lora_magnitude_vector{ADAPTER}(?:\.weight)?", "magnitude"), (r"\.dora_scale", "dora_scale"))


def decomposed(term: AdditiveTerm, parts: Parts) -> Decomposed:
    """`term` under the magnitudes among `parts`.

    PEFT keeps the magnitudes of the output axis; LyCORIS those of either, as `[out, 1, ...]` or `[1, in, ...]`.
    """
    name = next(name for name in PARTS if name in parts)
    magnitude = parts[name]
    axis = 1 if name == "dora_scale" and magnitude.ndim > 1 and magnitude.shape[0] == 1 != term.shape[0] else 0
    require(magnitude.numel() == term.shape[axis], {name: magnitude, "weight": torch.empty(term.shape, device="meta")})
    return Decomposed(term, magnitude.flatten(), axis)
