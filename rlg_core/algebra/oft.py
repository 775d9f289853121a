"""OFT: block-diagonal rotations of a weight (arXiv 2306.07280), as PEFT and LyCORIS (diag-oft) train them."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

from ..errors import AdapterError
from .rotation import Rotated, cayley, skew
from .term import ADAPTER, Algebra, Options, Parts, Term, require

HALVED_SINCE = (0, 18)
"""The release of PEFT that halved the last term of the Cayley-Neumann series."""


def _said(options: Options, name: str) -> Any:
    if name not in options:
        raise AdapterError(f"OFT needs the {name} of PEFT's adapter_config.json, which stands in no file beside it")
    return options[name]


def _projected(blocks: Tensor, eps: float) -> Tensor:
    """COFT: blocks whose norm exceeds `eps / sqrt(number of blocks)` are scaled down to it."""
    limit = eps / math.sqrt(blocks.shape[0])
    norm = torch.linalg.vector_norm(blocks, dim=(1, 2), keepdim=True)
    return torch.where(norm <= limit, blocks, limit * blocks / norm)


def neumann(q: Tensor, terms: int, halved: bool) -> Tensor:
    """PEFT's Cayley-Neumann series `I + 2 Q + 2 Q^2 + ...` of `terms` terms.

    With the last one `halved`, PEFT's series of three terms or more has Q^3 at least.
    """
    halved = halved and terms > 2
    total, power = torch.eye(q.shape[-1]).expand_as(q), q
    last = max(3, terms - 1) if halved else terms - 1
    for k in range(1, last + 1):
        total = total + (1.0 if halved and k == last else 2.0) * power
        power = power @ q
    return total


def _peft(parts: Parts, options: Options) -> Rotated:
    """PEFT since 0.16: the upper triangles of skew-symmetric blocks, which rotate the input."""
    triangles = parts["oft_R"].float()
    require(triangles.ndim == 2, parts)
    size = (1 + math.isqrt(1 + 8 * triangles.shape[1])) // 2
    require(size * (size - 1) // 2 == triangles.shape[1], parts)
    upper = torch.zeros(triangles.shape[0], size, size)
    rows, columns = torch.triu_indices(size, size, 1)
    upper[:, rows, columns] = triangles
    q = skew(upper)
    if options.get("coft"):
        q = _projected(q, _said(options, "eps"))
    if _said(options, "use_cayley_neumann"):
        release = re.match(r"(\d+)\.(\d+)", str(options.get("peft_version", "")))  # not named before 0.18
        halved = release is not None and tuple(map(int, release.groups())) >= HALVED_SINCE
        blocks = neumann(q, int(_said(options, "num_cayley_neumann_terms")), halved)
    else:
        blocks = cayley(q)
    return Rotated(blocks[None], on_input=True, shared=bool(options.get("block_share")), pointwise=True)


def _old_peft(parts: Parts, options: Options) -> Rotated:
    """PEFT before 0.16: whole blocks. They rotate the input and come with magnitudes, or, before 0.14, the output."""
    blocks, magnitude = parts["oft_r"].float(), parts.get("oft_s")
    require(blocks.ndim == 3 and blocks.shape[1] == blocks.shape[2], parts)
    number, size = blocks.shape[:2]
    shared = bool(_said(options, "block_share"))
    if _said(options, "coft"):
        if magnitude is not None and shared:
            raise AdapterError("OFT with coft and block_share of PEFT 0.14 or 0.15 cannot be loaded")
        side = size if magnitude is None else math.ceil(magnitude.numel() / number)
        blocks = _projected(blocks, _said(options, "eps") * side * side)
    rotation = cayley(skew(blocks) / 2)
    if magnitude is None:
        return Rotated(rotation.mT[None], on_input=False, shared=shared)
    return Rotated(rotation[None], on_input=True, magnitude=magnitude.flatten(), shared=shared)


def constrained(blocks: Tensor, alpha: Tensor) -> Tensor:
    """LyCORIS' skew-symmetric blocks, whose norm over all of them is at most `alpha` times the weight's rows."""
    q, limit = skew(blocks), float(alpha) * blocks.shape[-3] * blocks.shape[-2]
    norm = float(q.norm()) + 1e-8
    return q * (limit / norm) if 0 < limit < norm else q


def _lycoris(parts: Parts) -> Rotated:
    blocks, rescale = parts["oft_blocks"], parts.get("rescale")
    require(blocks.ndim == 3 and blocks.shape[1] == blocks.shape[2], parts)
    rotation = cayley(constrained(blocks, parts["alpha"]))
    return Rotated(rotation[None], on_input=False, magnitude=None if rescale is None else rescale.flatten())


def _build(parts: Parts, scale: float, options: Options) -> dict[str, Term]:
    if "oft_R" in parts:
        return {"weight": _peft(parts, options)}
    return {"weight": _old_peft(parts, options) if "oft_r" in parts else _lycoris(parts)}


OFT = Algebra(
    kind="oft",
    label="OFT",
    endings=(
        (rf"\.oft_R{ADAPTER}\.weight", "oft_R"),
        (rf"\.oft_r{ADAPTER}", "oft_r"),
        (rf"\.oft_s{ADAPTER}", "oft_s"),
        (r"\.oft_blocks", "oft_blocks"),
        (r"\.rescale", "rescale"),
    ),
    build=_build,
    peft_type="OFT",
    scaled=False,
)
