"""The geometric mean on predictions (arXiv 2508.21016, eq. 7)."""

from __future__ import annotations

import pytest
import torch

from rlg_core.combine import base_weight, blended, geometric_mean, is_zero, rescale, where_guided

GENERATOR = torch.Generator().manual_seed(0)
BASE, FIRST, SECOND = (torch.randn(2, 4, 5, 5, generator=GENERATOR) for _ in range(3))


@pytest.mark.parametrize("weights", [(1.6,), (0.0,), (-1.0,), (0.3, 0.7), (1.5, -0.5), (2.0, 1.0)])
def test_is_base_plus_weighted_differences(weights):
    experts = list(zip(weights, (FIRST, SECOND), strict=False))
    expected = BASE + sum(w * (prediction - BASE) for w, prediction in experts)
    assert torch.allclose(geometric_mean(BASE, experts), expected, atol=1e-6)


def test_weights_that_sum_to_one_need_no_base():
    assert is_zero(base_weight([0.1, 0.2, 0.7]))
    mean = geometric_mean(None, [(1.5, FIRST), (-0.5, SECOND)])
    assert torch.allclose(mean, geometric_mean(BASE, [(1.5, FIRST), (-0.5, SECOND)]), atol=1e-5)


def test_one_expert_alone_comes_back_untouched():
    assert geometric_mean(None, [(1.0, FIRST)]) is FIRST


def test_the_base_is_not_written_to():
    before = BASE.clone()
    geometric_mean(BASE, [(2.0, FIRST)])
    assert torch.equal(BASE, before)


def test_is_affine_in_the_prediction():
    """Noise or velocity, sigma and x from outside: the mean of the converted is the conversion of the mean."""
    x, sigma = SECOND, 0.7

    def convert(denoised):
        return (x - denoised) / sigma

    mean = geometric_mean(convert(BASE), [(1.7, convert(FIRST))])
    assert torch.allclose(mean, convert(geometric_mean(BASE, [(1.7, FIRST)])), atol=1e-5)


def test_of_two_gaussians_is_the_gaussian_of_the_geometric_mean():
    """Score form: `p_base^(1-w) p_rl^w` of N(m, v) and N(n, u) has precision `(1-w)/v + w/u`."""
    points, w = torch.linspace(-3, 3, 50, dtype=torch.float64), 1.5
    (m, v), (n, u) = (0.0, 2.0), (1.0, 1.5)
    precision = (1 - w) / v + w / u
    mean = ((1 - w) * m / v + w * n / u) / precision
    score = geometric_mean(-(points - m) / v, [(w, -(points - n) / u)])
    assert torch.allclose(score, -(points - mean) * precision)


def test_weights_per_row():
    weight = torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1)
    mean = geometric_mean(BASE, [(weight, FIRST)])
    assert torch.equal(mean[0], BASE[0])
    assert torch.allclose(mean[1], BASE[1] + 2 * (FIRST[1] - BASE[1]))
    assert not is_zero(weight)
    assert is_zero(torch.zeros(3))


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_rescale_moves_the_deviation_per_sample(strength):
    mean = geometric_mean(BASE, [(3.0, FIRST)])
    result = rescale(mean, FIRST, strength).flatten(1).std(dim=1)
    expected = strength * FIRST.flatten(1).std(dim=1) + (1 - strength) * mean.flatten(1).std(dim=1)
    assert torch.allclose(result, expected, rtol=1e-5)


def test_rescale_leaves_rows_that_nothing_guides():
    weights = [torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1), torch.zeros(2, 1, 3, 3)]
    mean = geometric_mean(BASE, [(weights[0], FIRST)])
    result = rescale(mean, FIRST, where_guided(0.5, weights))
    assert torch.equal(result[0], BASE[0])
    assert torch.equal(result[1], rescale(mean, FIRST, 0.5)[1])
    assert where_guided(0.5, [weights[0], 1.0]).flatten().tolist() == [0.5, 0.5]
    assert where_guided(0.5, [3.0]) == 0.5


def test_masked_weights():
    mask = torch.tensor([0.0, 0.25, 1.0])
    assert torch.allclose(blended(2.0, 1.0, mask), torch.tensor([1.0, 1.25, 2.0]))
    assert blended(2.0, 1.0, None) == 2.0
