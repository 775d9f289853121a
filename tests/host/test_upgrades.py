"""Graphs and adapters that earlier releases saved still load, and make the same latents."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from support import saved
from support.guiding import run_node
from support.tensors import largest, rms

RELEASES = sorted(path.name for path in saved.FIXTURES.iterdir())
SAME = 2e-5
"""How far latents may be apart, relative to their size: other processors and releases of torch round otherwise."""
REORDERED = {"linearised": 1e-3}
"""Graphs whose sums are in another order since then: at 1.5e-7 per layer, which this model of large random weights
enlarges 3,000 times."""


@pytest.fixture(scope="module", params=RELEASES)
def release(request, host):
    """(graphs, their latents) as the release saved them; the host finds its adapters."""
    folder, names = saved.FIXTURES / request.param, host.folder_paths.folder_names_and_paths
    before = names["loras"]
    saved.use_loras(host, folder / "loras")
    graphs = json.loads((folder / "graphs.json").read_text(encoding="utf-8"))
    yield graphs, load_file(folder / "latents.safetensors")
    names["loras"] = before


@pytest.fixture(scope="module")
def now(host, release):
    return saved.latents(host, release[0])


def test_the_same_latents(release, now):
    _, before = release
    apart = {name: largest(now[name], latent) / rms(latent) for name, latent in before.items()}
    assert not {name: value for name, value in apart.items() if not value < REORDERED.get(name, SAME)}


def test_the_graphs_are_not_all_one(release):
    """Each setting matters, so that an input that is no longer read would be seen."""
    _, before = release
    same = (
        {"scale 0", "base alone"},
        {"scale 1", "rl alone"},
        {"adapter peft", "sequential", "traced"},
        {"adapter saved.safetensors", "adapter saved_peft"},
    )
    for name, latent in before.items():
        group = next((group for group in same if name in group), {name})
        others = (other for other in before if other not in group)
        assert min(largest(latent, before[other]) for other in others) > 100 * SAME * rms(latent), name


def test_the_current_loader_reads_what_was_saved(host, release):
    """The weights, not only one latent: each file changes what the PEFT adapter changed, at its strength."""
    base = saved.given(host)["base"]
    key = "diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"
    weight = base.model.state_dict()[key]

    def change(name, strength=1.0):
        loaded = run_node(host, "RLGAdapterLoader", base, name, strength, 0.0, "")[0]
        return host.comfy.lora.calculate_weight(loaded.patches[key], weight.clone(), key) - weight

    expected = change("peft", 1.25)
    assert float(expected.abs().max()) > 0.01
    for name in ("saved.safetensors", "saved_peft"):
        assert torch.allclose(change(name), expected, atol=1e-6)
