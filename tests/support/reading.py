"""What must hold of a quantised model, whoever made it: what is read of its weights is what its layers compute with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import tiny
from .guiding import guide, run_node
from .oracle import two_models
from .quantised import dequantised, twin
from .sampling import Sampling
from .tensors import largest, rms

KEY = "diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"
SETTINGS = Sampling(steps=2)


def unpatched(host: SimpleNamespace, model: Any, key: str = KEY) -> Tensor:
    return host.module("nodes.host.compat").unpatched_weight(model, key)


def assert_read_as_computed(host: SimpleNamespace, model: Any) -> None:
    expected = dequantised(model)
    for name in ("x_block.attn.qkv.weight", "x_block.attn.qkv.bias", "context_block.mlp.fc1.weight"):
        found = unpatched(host, model, f"diffusion_model.joint_blocks.0.{name}")
        assert type(found) is Tensor and found.dtype == torch.float32
        assert largest(found, expected[f"joint_blocks.0.{name}"]) < 2e-6


def assert_read_without_patches(host: SimpleNamespace, model: Any) -> None:
    """Also while patches are in memory, and without a trace on them."""
    before, rl_model = unpatched(host, model).clone(), tiny.with_lora(host, model, tiny.sd3_lora())
    sampled = SETTINGS.run(host, rl_model)
    found = unpatched(host, rl_model)
    assert torch.equal(found, before)
    found.zero_()
    assert torch.equal(unpatched(host, rl_model), before)
    assert torch.equal(SETTINGS.run(host, rl_model), sampled)


def assert_size_reported(host: SimpleNamespace, model: Any, folder: Path) -> None:
    """The adapter loader tells the size of the change of plain weights of the same values."""
    save_file(tiny.sd3_lora(), folder / "lora.safetensors")

    def size(model):
        report = run_node(host, "RLGAdapterLoader", model, "lora.safetensors", 1.0, 0.0, "")[1]
        return float(report.split("size of the change: ")[1].split("%")[0])

    assert size(model) == pytest.approx(size(twin(host, model)), rel=1e-3)


def assert_adapter_guided(host: SimpleNamespace, model: Any) -> None:
    """A stock LoRA under RLG is what it is on plain weights of the same values; the base is untouched."""
    other = twin(host, model)
    rl_model, rl_other = (tiny.with_lora(host, m, tiny.sd3_lora()) for m in (model, other))
    base, effect = SETTINGS.run(host, model), rms(SETTINGS.run(host, rl_other) - SETTINGS.run(host, other))
    assert torch.equal(SETTINGS.run(host, guide(host, model, rl_model, 0.0)), base)
    for scale in (1.0, 2.0):
        found = SETTINGS.run(host, guide(host, model, rl_model, scale))
        assert largest(found, SETTINGS.run(host, guide(host, other, rl_other, scale))) < 1e-3 * effect
    assert torch.equal(SETTINGS.run(host, model), base)


def save_dora(folder: Path) -> str:
    """Writes a PEFT folder with a DoRA of the attention; returns its name."""
    import peft

    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, use_dora=True)
    model = peft.get_peft_model(tiny.sd3_transformer(), config)
    tiny.fill(model, "default", seed=1)
    model.save_pretrained(folder / "dora")
    return "dora"


def with_dora(host: SimpleNamespace, model: Any, folder: Path) -> Any:
    return run_node(host, "RLGAdapterLoader", model, save_dora(folder), 1.0, 0.0, "")[0]


def assert_dora_guided(host: SimpleNamespace, model: Any, folder: Path) -> None:
    """A DoRA, which depends on the weight, is what it is on plain weights of the same values."""
    other = twin(host, model)
    rl_model, rl_other = (with_dora(host, m, folder) for m in (model, other))
    effect = rms(SETTINGS.run(host, rl_other) - SETTINGS.run(host, other))
    found, expected = (SETTINGS.run(host, guide(host, *pair, 1.0)) for pair in ((model, rl_model), (other, rl_other)))
    assert largest(found, expected) < 1e-3 * effect


def assert_dora_saved(host: SimpleNamespace, model: Any, folder: Path) -> None:
    """A dense change is saved as it is on plain weights of the same values."""
    found, expected = (
        load_file(run_node(host, "RLGSaveAdapter", m, with_dora(host, m, folder), "saved", "comfyui")[0])
        for m in (model, twin(host, model))
    )
    assert found.keys() == expected.keys()
    assert all(rms(found[key] - value) < 1e-4 * rms(value) for key, value in expected.items())


def assert_adapter_extracted(host: SimpleNamespace, model: Any) -> None:
    """What is extracted from a model with a LoRA on it is what is extracted from plain weights of the same values."""
    pairs = [(m, tiny.with_lora(host, m, tiny.sd3_lora())) for m in (model, twin(host, model))]
    found, expected = (load_file(extracted(host, *pair, rank=4)) for pair in pairs)
    assert found.keys() == expected.keys()
    for key in found:
        if key.endswith("lora_up.weight"):
            down = key.replace("lora_up", "lora_down")
            product, exact = (adapter[key] @ adapter[down] for adapter in (found, expected))
            assert rms(product - exact) < 1e-3 * rms(exact)


def extracted(host: SimpleNamespace, model: Any, rl_model: Any, rank: int) -> str:
    """The file that RLG Extract Adapter writes."""
    report = run_node(host, "RLGExtractAdapter", model, rl_model, rank, 1.0, "extracted")[1]
    return report.splitlines()[0].removeprefix("Saved ")


def assert_difference_extracted(host: SimpleNamespace, model: Any, rl_model: Any) -> None:
    """At full rank, what is extracted from two checkpoints makes one the other."""
    changed, report = run_node(host, "RLGExtractAdapter", model, rl_model, 384, 1.0, "extracted")
    assert "0 kept at low rank" in report
    expected = SETTINGS.run(host, rl_model)
    effect = rms(expected - SETTINGS.run(host, model))
    assert largest(SETTINGS.run(host, guide(host, model, changed, 1.0)), expected) < 1e-3 * effect


def assert_two_guided(host: SimpleNamespace, model: Any, rl_model: Any, alone: Any) -> None:
    """Two checkpoints: scale 0 and 1 are each model's own result, 2 is that of `alone`, the RL model loaded again."""
    base, rl = SETTINGS.run(host, model), SETTINGS.run(host, alone)
    expected = SETTINGS.run(host, two_models(host, model, alone, 2.0))
    assert torch.equal(SETTINGS.run(host, guide(host, model, rl_model, 0.0)), base)
    assert torch.equal(SETTINGS.run(host, guide(host, model, rl_model, 1.0)), rl)
    assert largest(SETTINGS.run(host, guide(host, model, rl_model, 2.0)), expected) < 1e-4 * rms(rl - base)


def assert_patched_model_met(host: SimpleNamespace, model: Any, alone: Any) -> None:
    """Where the pack of a model patches without rounding: RLG equals two separate models, one with the LoRA on it."""
    rl_model, rl_alone = (tiny.with_lora(host, m, tiny.sd3_lora()) for m in (model, alone))
    expected = SETTINGS.run(host, two_models(host, model, rl_alone, 2.0))
    found = SETTINGS.run(host, guide(host, model, rl_model, 2.0))
    assert largest(found, expected) < 1e-4 * rms(expected - SETTINGS.run(host, model))
