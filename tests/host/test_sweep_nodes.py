"""Sweeps on the host: the same noise for every scale, each item at its own scale."""

from __future__ import annotations

import pytest
import torch

from support import tiny
from support.guiding import guide, run_node
from support.sampling import Sampling, conditioning
from support.tensors import rms

SCALES = "0, 0.5, 1, 2"


@pytest.fixture(scope="module")
def sd3(host):
    return tiny.sd3_pair(host)


def sample(host, model, latent, seed=3):
    """As the host's KSampler node does it."""
    return host.nodes.common_ksampler(
        model, seed, 6, 4.5, "euler", "simple", conditioning(11), conditioning(12), latent
    )[0]["samples"]


def empty(items=1):
    return {"samples": torch.zeros(items, 16, 8, 8)}


def test_sweep_gives_a_list(host):
    node = host.classes["RLGSweep"]
    assert node.execute("0, 1.5").result[0] == [0.0, 1.5]
    assert node.define_schema().outputs[0].is_output_list
    with pytest.raises(ValueError, match="expected numbers from -10 to 20"):
        node.execute("a")


def test_a_list_has_one_progress_bar(host, sd3):
    """The steps of all its runs count on; the pictures are those of numbers that know no list."""
    told = []
    scales = host.classes["RLGSweep"].execute("0, 1, 2.5").result[0]
    for scale in scales:
        settings = Sampling(steps=4)
        run = settings.run(host, guide(host, *sd3, scale), lambda k, x0, x, steps: told.append((k, steps)))
        assert torch.equal(run, settings.run(host, guide(host, *sd3, float(scale))))
    assert told == [(k, 12) for k in range(12)]


@pytest.mark.parametrize("items", [1, 2])
def test_one_batch_equals_a_run_for_each_scale(host, sd3, items):
    latent, schedule, scales = run_node(host, "RLGBatchSweep", empty(items), SCALES)
    assert scales == [0.0, 0.5, 1.0, 2.0] and latent["samples"].shape[0] == 4 * items
    together = sample(host, guide(host, *sd3, 9.0, schedule=schedule), latent)
    for k, scale in enumerate(scales):
        alone = sample(host, guide(host, *sd3, scale), empty(items) | {"batch_index": list(range(items))})
        assert (together[k * items : (k + 1) * items] - alone).abs().max() < 1e-4
    assert rms(together[-1] - together[0]) > 1e-2, "the scales make a difference"


def test_a_shape_multiplies_the_scales(host, sd3):
    shape = run_node(host, "RLGSchedule", "interval", 1.0, 0.0, 0.0, 0.5, 1.0)[0]
    latent, schedule, _ = run_node(host, "RLGBatchSweep", empty(), "1, 2", schedule=shape)
    together = sample(host, guide(host, *sd3, 9.0, schedule=schedule), latent)
    scaled = run_node(host, "RLGSchedule", "interval", 2.0, 0.0, 0.0, 0.5, 1.0)[0]
    alone = sample(host, guide(host, *sd3, 9.0, schedule=scaled), empty() | {"batch_index": [0]})
    assert (together[1:] - alone).abs().max() < 1e-4
    with pytest.raises(ValueError, match="already has a scale for each item"):
        run_node(host, "RLGBatchSweep", empty(), "1, 2", schedule=schedule)


def test_masks_of_single_items_are_repeated_with_them(host):
    masks = torch.stack([torch.zeros(1, 64, 64), torch.ones(1, 64, 64)])
    latent = run_node(host, "RLGBatchSweep", empty(2) | {"noise_mask": masks, "batch_index": [4, 7]}, "0, 1")[0]
    assert torch.equal(latent["noise_mask"], torch.cat([masks, masks])) and latent["batch_index"] == [4, 7, 4, 7]
    shared = run_node(host, "RLGBatchSweep", empty(2) | {"noise_mask": masks[:1]}, "0, 1")[0]
    assert shared["noise_mask"].shape[0] == 1
    dealt = run_node(host, "RLGBatchSweep", empty(3) | {"noise_mask": masks}, "0, 1")[0]
    assert torch.equal(dealt["noise_mask"], masks[[0, 1, 0, 0, 1, 0]])


def test_grid_from_a_list_and_from_a_batch(host):
    pictures = torch.rand(4, 32, 48, 3, generator=torch.Generator().manual_seed(0))
    listed = run_node(host, "RLGSweepGrid", list(pictures.split(2)), [0.0, 1.0], [1.0, 2.0, 5.0, 6.0])
    batched = run_node(host, "RLGSweepGrid", [pictures], [0.0, 1.0], [1.0, 2.0, 5.0, 6.0])
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(listed, batched))
    grid, plot, csv = listed
    assert grid.ndim == plot.ndim == 4 and grid.shape[-1] == plot.shape[-1] == 3
    assert csv.splitlines()[1].startswith("0,2,1.5,0.5,") and csv.splitlines()[2].startswith("1,2,5.5,0.5,")
    assert run_node(host, "RLGSweepGrid", [pictures], [0.0, 1.0])[2].splitlines()[1].startswith("0,2,,,")


def test_grid_refuses_what_does_not_share_out(host):
    with pytest.raises(ValueError, match="images has 3 entries for 2 scales"):
        run_node(host, "RLGSweepGrid", [torch.zeros(3, 8, 8, 3)], [0.0, 1.0])
