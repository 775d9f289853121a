"""Rotations of a weight's rows or columns, block by block: what OFT and BOFT train."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import AdapterError
from .term import Shape, Term, halves_swapped

ANY = -1
"""A size that the file does not tell."""


def skew(blocks: Tensor) -> Tensor:
    """The skew-symmetric part of each block, times 2: `Q = A - A^T`."""
    return blocks.float() - blocks.float().mT


def cayley(q: Tensor) -> Tensor:
    """The rotation `(I - Q) (I + Q)^-1` of each skew-symmetric block."""
    identity = torch.eye(q.shape[-1], device=q.device)
    return torch.linalg.solve(identity + q, identity - q, left=False)


@dataclass(frozen=True)
class Rotated(Term):
    """`W_rl = magnitude * R_m ... R_1 W`, or with `on_input`, `W_rl = magnitude * W (R_m ... R_1)^T`.

    Each R is block-diagonal in an order of its own: stage i of `blocks` [m, n, b, b] takes the rows in the order
    `orders[i]`, and puts them back. A `shared` block (n = 1) serves all rows. `swapped_rows` tells that the halves of
    the weight's rows are in the other order than the trainer's.
    """

    blocks: Tensor
    on_input: bool
    magnitude: Tensor | None = None
    orders: Tensor | None = None
    shared: bool = False
    pointwise: bool = False
    """Whether the trainer itself computes something else for kernels larger than 1."""
    swapped_rows: bool = False
    shape: Shape = ()

    def __post_init__(self) -> None:
        if not self.shape:
            size = ANY if self.shared else self.blocks.shape[1] * self.blocks.shape[2]
            object.__setattr__(self, "shape", (ANY, size) if self.on_input else (size, ANY))

    def delta(self, weight: Tensor | None = None) -> Tensor:
        whole = weight.float().flatten(1)
        rows = halves_swapped(whole) if self.swapped_rows else whole
        turned = self._turned(rows.T).T if self.on_input else self._turned(rows)
        if self.magnitude is not None:
            turned = self.magnitude.float().to(turned.device).reshape(-1, 1) * turned
        turned = halves_swapped(turned) if self.swapped_rows else turned
        return (turned - whole).reshape(weight.shape)

    def _turned(self, rows: Tensor) -> Tensor:
        for stage, blocks in enumerate(self.blocks.to(rows.device, torch.float32)):
            order = None if self.orders is None else self.orders[stage].to(rows.device)
            rows = rows if order is None else rows[order]
            rows = (blocks @ rows.unflatten(0, (-1, blocks.shape[-1]))).flatten(0, 1)
            rows = rows if order is None else rows[order.argsort()]
        return rows

    def swapped(self) -> Rotated:
        return replace(self, swapped_rows=not self.swapped_rows)

    def reshaped(self, shape: Shape) -> Rotated:
        return replace(self, shape=shape)

    def fitted(self, shape: Shape) -> Term | None:
        if ANY not in self.shape:
            return super().fitted(shape)
        if self.pointwise and math.prod(shape[2:]) > 1:
            raise AdapterError(
                f"OFT on a kernel of {list(shape[2:])}: there PEFT trains one function and merges another, so no "
                "result would be right"
            )
        return self.reshaped(shape) if len(shape) > 1 and self._fits(shape) else None

    def _fits(self, shape: Shape) -> bool:
        number, block = self.blocks.shape[1:3]
        size = math.prod(shape[1:]) if self.on_input else shape[0]
        rows = self.magnitude is None or self.magnitude.numel() == shape[0]
        return rows and (size % block == 0 if self.shared else size == number * block)
