"""Adapters that turn the weights (OFT, BOFT) or read them (GLoRA): loaded as trained, and exact under RLG."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from support import tiny
from support.guiding import guide, two_passes
from support.patched import all_weights, assert_same
from support.sampling import Sampling
from support.tensors import largest, random, rms

SETTINGS = Sampling(steps=2)
TARGETS = [*tiny.SD3_TARGETS, "norm_out.linear"]
CONFIGS = {
    "OFT": {"oft_block_size": 8},
    "BOFT": {"boft_block_size": 8},
}


@pytest.fixture(scope="module")
def base(host: SimpleNamespace) -> Any:
    return tiny.load(host, tiny.sd3_transformer())


def trained(kind: str, folder: Path) -> torch.nn.Module:
    """A PEFT adapter of this kind on the tiny SD3, saved in `folder`; returns PEFT's merged model."""
    import peft

    config = getattr(peft, f"{kind}Config")(target_modules=TARGETS, **CONFIGS[kind])
    model = peft.get_peft_model(tiny.sd3_transformer(), config)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "oft_" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(str(folder))
    return copy.deepcopy(model).merge_and_unload()


def load(host: SimpleNamespace, model: Any, path: Path, strength: float = 1.0) -> tuple[Any, str]:
    adapter = host.module("rlg_core.formats").read_adapter(path)
    return host.module("nodes.host.models.adapters").load(model, adapter, strength)


@pytest.mark.parametrize("kind", CONFIGS)
def test_peft_adapters_that_turn_the_input(host, base, tmp_path, monkeypatch, kind):
    """Slices of fused layers and swapped halves included: weights as PEFT merges them, pictures as two models make."""
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: None)  # it would compile a kernel
    merged = tiny.load(host, trained(kind, tmp_path))
    model, report = load(host, base, tmp_path)
    assert_same(all_weights(host, model), merged.model.state_dict())
    assert "ComfyUI would load this not at all" in report and f"({kind})" in report
    expected = SETTINGS.run(host, two_passes(host, base, merged, 2.0))
    assert rms(expected - SETTINGS.run(host, base)) > 0.01
    assert largest(SETTINGS.run(host, guide(host, base, model, 2.0)), expected) < 1e-4


def lycoris_file(folder: Path, layers: dict[str, dict[str, torch.Tensor]]) -> Path:
    tensors = {f"lycoris_{name.replace('.', '_')}.{part}": v for name, own in layers.items() for part, v in own.items()}
    save_file(tensors, folder / "rl.safetensors")
    return folder / "rl.safetensors"


@pytest.mark.parametrize(
    ("parts", "strength", "told"),
    [
        ({"alpha": torch.tensor(0.0)}, 1.0, "the same"),
        ({"alpha": torch.tensor(0.0)}, 0.5, "with other arithmetic"),
        ({"alpha": torch.tensor(0.001)}, 1.0, "with other arithmetic"),
        ({"alpha": torch.tensor(0.0), "rescale": 1 + random(128, 1, size=0.1)}, 1.0, "with other arithmetic"),
    ],
)
def test_what_the_stock_loader_makes_of_lycoris(host, base, tmp_path, parts, strength, told):
    """It limits the norm elsewhere, forgets the rescaling, and applies the strength twice: measured, and told."""
    path = lycoris_file(
        tmp_path, {"transformer_blocks.0.attn.to_out.0": {"oft_blocks": random(16, 8, 8, size=0.2), **parts}}
    )
    model, report = load(host, base, path, strength)
    assert f"stock ComfyUI would load this {told}" in report
    tensors = host.comfy.utils.load_torch_file(str(path))
    stock = all_weights(host, tiny.with_lora(host, base, tensors, strength))
    ours = all_weights(host, model)
    assert (max(largest(ours[key], stock[key]) for key in ours) < 1e-5) is (told == "the same")


def glora(out: int, inner: int, rank: int = 4) -> dict[str, torch.Tensor]:
    shapes = {"a1": (inner, rank), "a2": (rank, inner), "b1": (out, rank), "b2": (rank, inner)}
    return {f"{name}.weight": random(*shape, size=0.1) for name, shape in shapes.items()} | {"alpha": torch.tensor(2.0)}


def test_glora_beside_shared_weights_is_low_rank(host, base, tmp_path):
    """Two slices of one fused layer and a whole one; the stock loader has the same arithmetic."""
    layers = ("transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_v", "transformer_blocks.0.attn.to_out.0")
    path = lycoris_file(tmp_path, {name: glora(128, 128) for name in layers})
    model, report = load(host, base, path)
    assert "rank: 4; alpha: 2" in report and "would load this the same" in report
    changed = host.module("nodes.host.models.patches").changed_parameters(base, model)
    assert sorted(place.term.rank for own in changed.values() for place in own) == [8, 8, 8]
    copy_of_base = tiny.load(host, tiny.sd3_transformer())
    expected = SETTINGS.run(host, two_passes(host, base, load(host, copy_of_base, path)[0], 2.0))
    assert rms(expected - SETTINGS.run(host, base)) > 0.01
    assert largest(SETTINGS.run(host, guide(host, base, model, 2.0)), expected) < 1e-4


def test_glora_over_another_adapter_reads_the_weight_below_it(host, base, tmp_path):
    """A LoRA on both sides before it: GLoRA's factors multiply the weight with that LoRA on it."""
    path = lycoris_file(tmp_path, {"transformer_blocks.0.attn.to_out.0": glora(128, 128)})
    styled = tiny.with_lora(host, base, tiny.sd3_lora())
    model = load(host, styled, path)[0]
    twin = load(host, tiny.with_lora(host, tiny.load(host, tiny.sd3_transformer()), tiny.sd3_lora()), path)[0]
    expected = SETTINGS.run(host, two_passes(host, styled, twin, 2.0))
    assert largest(SETTINGS.run(host, guide(host, styled, model, 2.0)), expected) < 1e-4
