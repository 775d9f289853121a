"""Truncated differences against exact ones and against torch's full decomposition."""

from __future__ import annotations

import pytest
import torch

from rlg_core.lowrank import leading_svd, rounding_energy, squared_norm, truncate


def low_rank_delta(shape, rank, scale=1e-3):
    generator = torch.Generator().manual_seed(0)
    columns = torch.Size(shape[1:]).numel()
    delta = torch.randn(shape[0], rank, generator=generator) @ torch.randn(rank, columns, generator=generator)
    return (delta * scale).reshape(shape)


def decaying(shape=(300, 200), power=1.0):
    """A matrix with singular values 1, 2^-power, 3^-power, ..."""
    generator = torch.Generator().manual_seed(1)
    u = torch.linalg.qr(torch.randn(shape[0], shape[1], generator=generator)).Q
    v = torch.linalg.qr(torch.randn(shape[1], shape[1], generator=generator)).Q
    return u @ torch.diag(torch.arange(1, shape[1] + 1) ** -power) @ v


@pytest.mark.parametrize("shape", [(320, 200), (200, 320), (64, 48), (96, 24, 3, 3), (64, 64, 1, 1), (40, 8, 3, 3, 3)])
@pytest.mark.parametrize("rank", [1, 8])
def test_a_low_rank_difference_is_recovered_to_rounding(shape, rank):
    delta = low_rank_delta(shape, rank)
    result = truncate(delta, 16)
    assert result.term.rank == rank  # the ranks above it hold rounding noise only
    assert result.term.shape == shape
    assert result.kept == pytest.approx(1.0, abs=1e-6)
    assert (result.term.delta() - delta).norm() < 1e-5 * delta.norm()


@pytest.mark.parametrize("power", [0.3, 1.0])
def test_the_randomised_basis_keeps_what_the_full_decomposition_keeps(power):
    matrix = decaying(power=power)
    exact = torch.linalg.svdvals(matrix)[:16]
    _, values, _ = leading_svd(matrix, 16)
    assert values.square().sum() > 0.99 * exact.square().sum()
    assert values.square().sum() < 1.0001 * exact.square().sum()


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_energy_takes_the_smallest_rank_that_suffices(energy):
    matrix = decaying()
    squares = torch.linalg.svdvals(matrix).double().square()
    expected = int((squares.cumsum(0) < energy * squares.sum()).sum()) + 1
    result = truncate(matrix, 200, energy)
    assert result.term.rank == expected
    assert energy <= result.kept < 1.0


def test_kept_energy_is_the_share_of_the_squared_norm():
    matrix = decaying()
    result = truncate(matrix, 5)
    lost = (matrix - result.term.delta()).square().sum() / matrix.square().sum()
    assert result.term.rank == 5
    assert result.kept == pytest.approx(1 - float(lost), abs=1e-5)


def test_the_same_difference_gives_the_same_term():
    matrix = decaying()
    assert torch.equal(truncate(matrix, 8).term.up, truncate(matrix, 8).term.up)


def trained(relative, shape=(512, 384), rank=32):
    """A weight and a change of low rank, `relative` times as large as the weight."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(shape, generator=generator) * 0.02
    change = torch.randn(shape[0], rank, generator=generator) @ torch.randn(rank, shape[1], generator=generator)
    return weight, change * (relative * weight.norm() / change.norm())


@pytest.mark.parametrize(("dtype", "relative"), [(torch.bfloat16, 1.66e-3), (torch.float16, 1.66e-3 / 8)])
@pytest.mark.parametrize("loaded_as", ["itself", "float32"])
def test_the_rounding_of_a_file_is_known_from_its_values(dtype, relative, loaded_as):
    weight, _ = trained(0.0)
    stored = weight.to(dtype)
    floor = rounding_energy(stored if loaded_as == "itself" else stored.float()) ** 0.5
    assert floor / float(weight.norm()) == pytest.approx(relative, rel=0.05)
    assert floor == pytest.approx(float((stored.float() - weight).norm()), rel=0.02)


def test_weights_that_nothing_rounded_have_no_floor():
    assert rounding_energy(trained(0.0)[0]) == 0.0


def test_an_adapter_is_nearer_the_truth_than_the_difference_of_two_rounded_files():
    weight, change = trained(1e-3)
    base, rl = weight.bfloat16().float(), (weight + change).bfloat16().float()
    floor = rounding_energy(base) + rounding_energy(rl)
    found = truncate(rl - base, 128, floor=floor).term
    adapter, full = (float((delta - change).norm() / change.norm()) for delta in (found.delta(), rl - base))
    assert full > 1.5 and adapter < 1.0 and found.rank <= 32


def test_what_lies_above_the_floor_is_kept():
    weight, change = trained(3e-2)
    base, rl = weight.bfloat16().float(), (weight + change).bfloat16().float()
    found = truncate(rl - base, 128, floor=rounding_energy(base) + rounding_energy(rl)).term
    assert found.rank == 32
    assert (found.delta() - change).norm() < 0.6 * (rl - base - change).norm()


def test_a_difference_that_is_all_rounding_keeps_one_direction():
    weight, _ = trained(0.0)
    off = weight.bfloat16().float() - weight
    assert truncate(off, 128, floor=rounding_energy(weight.bfloat16())).term.rank <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_summing_squares_leaves_the_values_alone(dtype):
    values = torch.full((3, 5), 2.0, dtype=dtype)
    assert squared_norm(values) == 60.0 and torch.equal(values, torch.full_like(values, 2.0))
