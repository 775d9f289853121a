"""Sums several low-rank changes of one weight into one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..algebra import LowRank, Placed

Changes = Mapping[str, Sequence[Placed]]
"""The changes to save, by the host's key."""


def summed(placed: Sequence[Placed], shape: tuple[int, ...]) -> LowRank:
    """Low-rank changes of a weight of `shape` as one: factors side by side, with zeros outside each one's slice.

    If the scales agree, the factors are left as they are.
    """
    terms = [change.on_whole(shape).term.without_mid() for change in placed]
    scales = {term.scale for term in terms}
    ups = [_scaled_up(term) if len(scales) > 1 else term.up.flatten(1) for term in terms]
    scale = scales.pop() if len(scales) == 1 else 1.0
    if len(terms) == 1:
        return LowRank(ups[0], terms[0].down, scale)
    downs = [_common(term.down, terms) for term in terms]
    return LowRank(torch.cat([_common(up, terms) for up in ups], 1), torch.cat(downs), scale)


def _common(tensor: Tensor, terms: Iterable[LowRank]) -> Tensor:
    """`tensor` in a dtype that all `terms` can share without rounding."""
    dtypes = {term.down.dtype for term in terms}
    return tensor if len(dtypes) == 1 and tensor.dtype in dtypes else tensor.float()


def _scaled_up(term: LowRank) -> Tensor:
    """`scale * up`, in float32 if the dtype of `up` would round the product."""
    up = term.up.flatten(1)
    exact = up.float() * term.scale
    return exact.to(up.dtype) if torch.equal(exact.to(up.dtype).float(), exact) else exact
