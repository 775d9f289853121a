"""Every term against the dense weight it stands for: `x @ dW.T == apply(x)`, by kind, layer and dtype."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.nn import functional

from rlg_core.algebra import (
    Decomposed,
    Delta,
    Generalized,
    Hadamard,
    Kronecker,
    LowRank,
    Placed,
    Replace,
    Rotated,
    total_delta,
)
from support import tensors

LAYERS = {
    "linear": ((12, 8), {}),
    "conv1d": ((12, 8, 3), {"padding": 1}),
    "conv2d": ((12, 8, 3, 3), {"stride": 2, "padding": 1}),
    "conv2d 1x1": ((12, 8, 1, 1), {}),
    "conv2d dilated": ((12, 8, 3, 3), {"dilation": 2}),
    "conv2d grouped": ((12, 2, 3, 3), {"groups": 4, "padding": 1}),
    "conv2d depthwise": ((8, 1, 3, 3), {"groups": 8, "padding": 1}),
    "conv3d": ((12, 8, 3, 3, 3), {"padding": 1}),
}
CONVOLUTIONS = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}
random = partial(tensors.random, size=0.5)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def low_rank(shape, rank=3, scale=2.0):
    return LowRank(random(shape[0], rank), random(rank, *shape[1:]), scale)


def tucker(shape, rank=3):
    ones = [1] * (len(shape) - 2)
    return LowRank(
        random(shape[0], rank, *ones), random(rank, shape[1], *ones), 0.5, mid=random(rank, rank, *shape[2:])
    )


def hadamard(shape):
    return Hadamard(low_rank(shape, 2, 1.5), low_rank(shape, 3, 0.5), 2.0)


def hadamard_low_rank(shape):
    return hadamard(shape).as_low_rank()


def kronecker(shape):
    left = (2, 2) if shape[1] % 2 == 0 else (2, 1)
    return Kronecker(random(*left), random(shape[0] // left[0], shape[1] // left[1], *shape[2:]), -0.7)


def delta(shape):
    return Delta(random(*shape), 0.3)


KINDS = [low_rank, tucker, hadamard, hadamard_low_rank, kronecker, delta]
TABLE = [(kind, layer) for kind in KINDS for layer in LAYERS if kind is not tucker or layer != "linear"]


def inputs(shape, conv, dtype) -> torch.Tensor:
    channels = shape[1] * conv.get("groups", 1)
    return (
        random(3, 5, channels).to(dtype) if len(shape) == 2 else random(3, channels, *[7] * (len(shape) - 2)).to(dtype)
    )


def on_layer(x, weight, conv):
    return functional.linear(x, weight) if weight.ndim == 2 else CONVOLUTIONS[weight.ndim](x, weight, **conv)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("kind", "layer"), TABLE, ids=lambda part: getattr(part, "__name__", part))
def test_apply_is_the_dense_change(kind, layer, dtype):
    shape, conv = LAYERS[layer]
    term, x = kind(shape), inputs(shape, conv, dtype)
    assert tuple(term.shape) == shape
    expected = on_layer(x.float(), term.delta(), conv)
    result = term.apply(x, lambda x, weight: on_layer(x, weight, conv))
    assert result.dtype == dtype
    assert (result.float() - expected).abs().max() < TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_scaled(kind):
    term = kind((12, 8, 3, 3))
    assert torch.allclose(term.scaled(-1.5).delta(), -1.5 * term.delta())


def test_hadamard_is_the_product_of_its_factors():
    term = hadamard((12, 8))
    expected = 2.0 * term.left.delta() * term.right.delta()
    assert torch.allclose(term.delta(), expected)
    assert torch.allclose(term.as_low_rank().delta(), expected, atol=1e-5)
    assert term.as_low_rank().rank == 6


@pytest.mark.parametrize("shape", [(12, 8), (12, 8, 3, 3)])
def test_decomposed_at_the_weights_own_norm_is_its_direction(shape):
    """DoRA: rows of the result have the magnitude's norm, and the direction of `W + delta`."""
    weight, inner, magnitude = random(*shape), low_rank(shape), random(shape[0]).abs() + 0.1
    changed = weight + Decomposed(inner, magnitude).delta(weight)
    assert torch.allclose(changed.flatten(1).norm(dim=1), magnitude, atol=1e-5)
    directed = (weight + inner.delta()).flatten(1)
    assert torch.allclose(functional.cosine_similarity(changed.flatten(1), directed), torch.ones(shape[0]), atol=1e-5)


def test_decomposed_over_inputs():
    weight, inner, magnitude = random(12, 8), low_rank((12, 8)), random(8).abs() + 0.1
    changed = weight + Decomposed(inner, magnitude, axis=1).delta(weight)
    assert torch.allclose(changed.norm(dim=0), magnitude, atol=1e-5)


def test_kronecker_of_a_transposed_factor():
    """torch.kron fails on factors that are not contiguous, as Tucker products leave them."""
    left, right = random(2, 2), random(3, 4, 3, 3).transpose(0, 1)
    delta = Kronecker(left, right).delta()
    assert torch.equal(delta[:4, :3], left[0, 0] * right)
    assert torch.equal(delta[4:, :3], left[1, 0] * right)


def test_replace():
    weight, value = random(12, 8), random(8, 12).T
    assert torch.allclose(weight + Replace(value).delta(weight), value, atol=1e-6)


# What every kind of term can do


def decomposed(shape):
    return Decomposed(low_rank(shape), random(shape[0]).abs() + 0.1)


def replaced(shape):
    return Replace(random(*shape))


def rotated(shape):
    blocks = random(1, shape[0] // 4, 4, 4)
    return Rotated(torch.linalg.matrix_exp(blocks - blocks.mT), on_input=False, magnitude=random(shape[0])).fitted(
        shape
    )


def rotated_inputs(shape):
    blocks = random(1, math.prod(shape[1:]) // 4, 4, 4)
    return Rotated(torch.linalg.matrix_exp(blocks - blocks.mT), on_input=True).fitted(shape)


def generalized(shape):
    return Generalized(low_rank((shape[1], shape[1])), low_rank(shape), 0.5)


EVERY_KIND = [*KINDS, decomposed, replaced, rotated, rotated_inputs, generalized]
SHAPES = [(12, 8), (12, 8, 3, 3)]
KERNELS = [((12, 8, 1, 1), (12, 8)), ((12, 8), (12, 8, 1, 1)), ((12, 72), (12, 8, 3, 3))]
SLICES = [((0, 2, 6), (6, 8)), ((1, 4, 4), (12, 4))]


def on_shapes(kinds, cases, shape_of=lambda case: case):
    """Every kind with every case; a Tucker core belongs to a convolution."""
    return [(kind, case) for kind in kinds for case in cases if kind is not tucker or len(shape_of(case)) > 2]


def name(part):
    return getattr(part, "__name__", str(part))


@pytest.mark.parametrize(("kind", "shape"), on_shapes(EVERY_KIND, SHAPES), ids=name)
def test_swapped_halves(kind, shape):
    term, weight = kind(shape), random(*shape)

    def swap(tensor):
        return torch.cat(tensor.chunk(2)[::-1])

    assert torch.allclose(term.swapped().delta(swap(weight)), swap(term.delta(weight)), atol=1e-5)


@pytest.mark.parametrize(("kind", "kernel"), on_shapes(EVERY_KIND, KERNELS, lambda case: case[0]), ids=name)
def test_fits_a_weight_whose_kernel_is_written_otherwise(kind, kernel):
    own, wanted = kernel
    term, weight = kind(own), random(*wanted)
    fitted = term.fitted(wanted)
    assert tuple(fitted.shape) == wanted
    assert torch.allclose(fitted.delta(weight), term.delta(weight.reshape(own)).reshape(wanted), atol=1e-5)


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("wanted", [(8, 12, 3, 3), (12, 8, 3), (12, 24, 3, 1), (12, 8, 1, 9)], ids=str)
def test_does_not_fit_another_weight(kind, wanted):
    assert kind((12, 8, 3, 3)).fitted(wanted) is None


@pytest.mark.parametrize(("kind", "case"), on_shapes(KINDS, SLICES, lambda case: case[1]), ids=name)
def test_on_the_whole_weight(kind, case):
    at, own = case
    placed = Placed("weight", kind(own), at)
    expected = torch.zeros(12, 8)
    expected.narrow(*at).copy_(placed.term.delta())
    assert torch.allclose(placed.on_whole((12, 8)).term.delta(), expected, atol=1e-6)
    assert torch.allclose(total_delta([placed, placed], (12, 8)), 2 * expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "shape"), on_shapes(KINDS, SHAPES), ids=name)
def test_the_cheapest_form_is_the_same_change(kind, shape):
    term = kind(shape)
    assert torch.allclose(term.cheapest().delta(), term.delta(), atol=1e-5)
