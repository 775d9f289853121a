"""The device of these tests is a second device: it keeps apart what a GPU keeps apart."""

from __future__ import annotations

import copy

import pytest
import torch

from support.accelerator import CAPACITY, NAME, counts, memories


@pytest.fixture(autouse=True)
def found(host):
    """Importing the host makes the device known to torch."""
    assert host.comfy.model_management.get_torch_device() == torch.device(NAME, 0)


@pytest.mark.parametrize("other", ["cpu", f"{NAME}:1"])
def test_tensors_of_two_devices_do_not_meet(other):
    here, there = torch.ones(2, 2, device=NAME), torch.ones(2, 2, device=other)
    for operation in (torch.add, torch.matmul, torch.equal):
        with pytest.raises(RuntimeError, match="same device"):
            operation(here, there)
    assert torch.equal(here + there.to(NAME), torch.full((2, 2), 2.0, device=NAME))


def test_numbers_and_indices_may_come_from_the_processor():
    here = torch.arange(4.0, device=NAME)
    assert (here * torch.tensor(2.0))[torch.tensor([3])].cpu() == 6


def test_what_it_computes_is_what_the_processor_computes():
    x, layer = torch.randn(2, 3, 8, 8), torch.nn.Conv2d(3, 4, 3)
    expected = torch.nn.functional.group_norm(layer(x), 2).permute(0, 2, 3, 1).reshape(2, -1)
    layer.to(NAME)
    found = torch.nn.functional.group_norm(layer(x.to(NAME)), 2).permute(0, 2, 3, 1).reshape(2, -1)
    assert found.device == torch.device(NAME, 0) and type(found) is torch.Tensor
    assert torch.allclose(found.cpu(), expected, atol=1e-6)


def test_views_share_their_bytes():
    whole = torch.zeros(3, 4, device=NAME)
    whole.T[1].add_(1)
    assert whole.cpu().tolist() == [[0, 1, 0, 0]] * 3
    copied = copy.deepcopy(whole)
    whole.zero_()
    assert copied.sum().cpu() == 3


def test_memory_is_counted_and_ends():
    before = memories[1].used()
    held = torch.empty(1000, dtype=torch.uint8, device=f"{NAME}:1")
    views = held[10:], held.view(10, 100)
    assert memories[1].used() == before + 1000
    del held, views
    assert memories[1].used() == before
    with pytest.raises(torch.OutOfMemoryError, match=f"out of memory: {before + CAPACITY + 1} of {CAPACITY} bytes"):
        torch.empty(CAPACITY + 1, dtype=torch.uint8, device=f"{NAME}:1")


def test_it_counts_what_costs_on_a_gpu():
    x = torch.ones(2, 2)
    counts.clear()
    here = x.to(NAME)
    assert counts == {"uploads": 1, "uploaded": 16}
    here.view(4)[1:].add_(here.view(4)[1:] * 2)
    assert counts["launches"] == 2
    float(here.sum())
    assert (counts["launches"], counts["waits"]) == (4, 1)
    here.cpu()
    here[here > 1]
    assert counts["waits"] == 3


def test_random_numbers_are_its_own():
    state, own = torch.get_rng_state(), torch.npu.get_rng_state()
    drawn = torch.randn(4, device=NAME)
    assert torch.equal(torch.get_rng_state(), state)
    torch.npu.set_rng_state(own)
    assert torch.equal(torch.randn(4, device=NAME), drawn)
    assert not torch.equal(torch.randn(4, device=NAME), drawn)
