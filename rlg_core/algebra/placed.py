"""A term in its place: on one parameter of a module, or on a slice of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .term import AdditiveTerm, Shape

Slice = tuple[int, int, int]
"""`(dimension, start, length)` of the part of a weight that a term covers, such as q in a fused q, k, v weight."""


@dataclass(frozen=True)
class Placed:
    """A term on one parameter of a module; `at` is None if it covers the whole parameter."""

    parameter: str
    term: AdditiveTerm
    at: Slice | None = None

    def on_whole(self, shape: Shape) -> Placed:
        """The same change on the whole parameter of `shape`, zero outside the slice."""
        return self if self.at is None else replace(self, term=self.term.padded(self.at, shape), at=None)


def total_delta(placed: Sequence[Placed], shape: Shape) -> Tensor:
    """The sum of several changes of one parameter of `shape`, in float32 on the CPU."""
    total = torch.zeros(shape)
    for change in placed:
        part = total if change.at is None else total.narrow(*change.at)
        part += change.term.delta().cpu().reshape(part.shape)
    return total
