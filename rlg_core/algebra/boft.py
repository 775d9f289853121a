"""BOFT: rotations of a weight in butterfly order (arXiv 2311.06243), as PEFT and LyCORIS train them."""

from __future__ import annotations

import torch
from torch import Tensor

from .oft import constrained
from .rotation import Rotated, cayley, skew
from .term import ADAPTER, Algebra, Options, Parts, Term, require


def butterfly(blocks: Tensor, unit: int) -> Tensor:
    """The order [m, rows] of the rows in each stage of `blocks` [m, n, b, b].

    Stage i shuffles the two halves of each group of `b * 2^i` rows into each other, `unit` rows at a time.
    """
    stages, number, size = blocks.shape[:3]
    rows = torch.arange(number * size)
    units = [size * 2**stage // (2 * unit) for stage in range(stages)]
    return torch.stack([rows.reshape(-1, 2, count, unit).transpose(1, 2).flatten() for count in units])


def _require_butterfly(blocks: Tensor, parts: Parts) -> None:
    require(blocks.ndim == 4 and blocks.numel() > 0 and blocks.shape[2] == blocks.shape[3], parts)
    stages, number, size = blocks.shape[:3]
    require(stages == 1 or (size % 2 == 0 and number % 2 ** (stages - 1) == 0), parts)


def _peft(parts: Parts) -> Rotated:
    """PEFT: the input is rotated, each output scaled."""
    blocks = parts["boft_R"]
    _require_butterfly(blocks, parts)
    orders = butterfly(blocks, blocks.shape[2] // 2) if blocks.shape[0] > 1 else None
    return Rotated(cayley(skew(blocks) / 2), on_input=True, magnitude=parts["boft_s"].flatten(), orders=orders)


def _lycoris(parts: Parts) -> Rotated:
    """LyCORIS: the output is rotated, and perhaps scaled."""
    blocks, rescale = parts["oft_blocks"], parts.get("rescale")
    _require_butterfly(blocks, parts)
    require(blocks.shape[2] % 2 == 0, parts)
    rotation = cayley(-constrained(blocks, parts["alpha"]))
    magnitude = None if rescale is None else rescale.flatten()
    return Rotated(rotation, on_input=False, magnitude=magnitude, orders=butterfly(blocks, 1))


def _build(parts: Parts, scale: float, options: Options) -> dict[str, Term]:
    return {"weight": _peft(parts) if "boft_R" in parts else _lycoris(parts)}


BOFT = Algebra(
    kind="boft",
    label="BOFT",
    endings=(
        (rf"\.boft_R{ADAPTER}", "boft_R"),
        (rf"\.boft_s{ADAPTER}", "boft_s"),
        (r"\.oft_blocks", "oft_blocks"),
        (r"\.rescale", "rescale"),
    ),
    build=_build,
    peft_type="BOFT",
    scaled=False,
)
