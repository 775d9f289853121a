"""Truncated singular value decomposition of the difference of two weights, as one low-rank term.

It is randomised: a few products with the matrix take the place of all its singular vectors (Halko, Martinsson, Tropp,
arXiv 0909.4061). Two files of rounded weights differ by their rounding too. Its singular values end at
`sigma (sqrt m + sqrt n)` (arXiv 1011.3027): what lies below is left out, since it cannot be told from rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .algebra import LowRank

OVERSAMPLING = 8
"""Columns of the random probe beyond the rank and a quarter of it."""

POWER_ITERATIONS = 3
"""Each one multiplies every singular value by its square, which separates them.

Three resolve the flat spectra that full fine-tuning leaves.
"""

PIECE = 2**20
"""Numbers of a weight that are summed at a time: in float64, a large one would be copied several times."""

BFLOAT16 = 1.66e-3
"""What rounding to bfloat16 changes a tensor by, relative to its norm."""

ROUNDED = (torch.bfloat16, torch.float16)
"""Types whose rounding can be as large as what RL training changes."""


@dataclass(frozen=True)
class Truncation:
    """`term` approximates a difference and keeps the share `kept` (0 to 1) of its squared Frobenius norm."""

    term: LowRank
    kept: float


def range_basis(matrix: Tensor, columns: int) -> Tensor:
    """An orthonormal basis [m, columns] that nearly spans the leading left singular vectors of `matrix` [m, n].

    Algorithm 4.4 of arXiv 0909.4061: power iterations, orthonormalised after each product. The probe is seeded, so the
    same matrix gives the same basis in every run.
    """
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(matrix.shape[1], columns, generator=generator).to(matrix)
    basis = torch.linalg.qr(matrix @ probe).Q
    for _ in range(POWER_ITERATIONS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    return basis


def leading_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading `U` [m, k], `s` [k] (decreasing) and `Vh` [k, n] of `matrix` [m, n], with k = min(rank, m, n)."""
    columns = rank + rank // 4 + OVERSAMPLING
    if 2 * columns >= min(matrix.shape):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        basis = range_basis(matrix, columns)
        u, s, vh = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
        u = basis @ u
    return u[:, :rank], s[:rank], vh[:rank]


def squared_norm(values: Tensor) -> float:
    """The sum of squares in float64."""
    return sum(float(piece.double().square().sum()) for piece in values.flatten().split(PIECE))


def rounding_energy(weight: Tensor) -> float:
    """The expected squared norm of what rounding took from `weight`: the sum of `ulp^2 / 12`.

    The precision is read off the values, since a file's weights may have been loaded into a wider type: the narrowest
    one that holds them all. For bfloat16 the root of this is about `BFLOAT16` of the weight's norm; for float32 it
    counts as 0.
    """
    pieces = weight.flatten().split(PIECE)
    narrow = (
        dtype for dtype in ROUNDED if all(torch.equal(piece.to(dtype).to(piece.dtype), piece) for piece in pieces)
    )
    dtype = next(narrow, None)
    if dtype is None:
        return 0.0
    info, total = torch.finfo(dtype), 0.0
    for piece in pieces:
        exponent = torch.frexp(piece.float().abs().clamp_min(info.tiny)).exponent - 1
        total += float(torch.exp2(2.0 * exponent.double()).sum())
    return total * info.eps**2 / 12.0


def sufficient_rank(
    singular_values: Tensor, total: float, energy: float, shape: tuple[int, int], floor: float = 0.0
) -> int:
    """The smallest rank, at least 1, that keeps the share `energy` of `total` (a squared norm), without noise.

    Singular values below `s_0 * max(shape) * eps` count as noise, as in `numpy.linalg.matrix_rank`, and so do those
    that noise of the squared norm `floor` reaches by itself.
    """
    squares = singular_values.double().square()
    enough = int((squares.cumsum(0) < energy * total).sum()) + 1
    noise = float(singular_values[0]) * max(shape) * torch.finfo(singular_values.dtype).eps
    rounding = math.sqrt(floor / math.prod(shape)) * sum(map(math.sqrt, shape))
    return max(1, min(enough, int((singular_values > max(noise, rounding)).sum())))


def truncate(delta: Tensor, rank: int, energy: float = 1.0, floor: float = 0.0) -> Truncation:
    """`delta` [out, in, *kernel], not all zero, as a low-rank term of at most `rank`.

    With `energy` < 1 the term has the smallest rank that keeps this share of the squared norm. `floor` is the part of
    the squared norm that is rounding (`rounding_energy`), spread evenly: singular values that it reaches are left out.
    The singular values are split evenly between `up` and `down`.
    """
    matrix = delta.float().flatten(1)
    u, s, vh = leading_svd(matrix, rank)
    total = squared_norm(matrix)
    rank = sufficient_rank(s, total, energy, matrix.shape, floor)
    root = s[:rank].sqrt()
    term = LowRank(u[:, :rank] * root, (root[:, None] * vh[:rank]).reshape(rank, *delta.shape[1:]))
    return Truncation(term, min(1.0, float(s[:rank].double().square().sum()) / total))
