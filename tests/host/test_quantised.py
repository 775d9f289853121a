"""Scaled fp8 checkpoints: the host's quantised layers carry terms like any other."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from support import tiny
from support.guiding import guide
from support.sampling import Sampling
from support.tensors import rms

BLOCK = "joint_blocks.0.x_block."


def scaled_fp8(weights):
    """The layout of scaled fp8 checkpoints: fp8 weights with a scale each, and the marker."""
    quantised = {"scaled_fp8": torch.empty(2, dtype=torch.float8_e4m3fn)}
    for name, value in weights.items():
        if name.startswith(BLOCK) and name.endswith(".weight") and value.ndim == 2:
            scale = value.abs().max() / 448.0
            quantised[name] = (value / scale).to(torch.float8_e4m3fn)
            quantised[name.replace(".weight", ".scale_weight")] = scale.float()
        else:
            quantised[name] = value
    return quantised


def test_quantised_layers_are_guided(host):
    plain = tiny.load(host, tiny.sd3_transformer())
    lora = tiny.sd3_lora()
    model = host.comfy.sd.load_diffusion_model_state_dict(scaled_fp8(tiny.weights_of(plain)))
    rl_model, settings = tiny.with_lora(host, model, lora), Sampling(steps=4)

    def at(scale):
        return settings.run(host, guide(host, model, rl_model, scale))

    base, exact_base = settings.run(host, model), settings.run(host, plain)
    exact_change = settings.run(host, tiny.with_lora(host, plain, lora)) - exact_base
    assert 0 < rms(base - exact_base) < rms(exact_change)
    assert torch.equal(base, at(0.0))
    assert rms(at(1.0) - base - exact_change) < 0.25 * rms(exact_change)
    assert rms(at(2.0) - base) > 1.3 * rms(exact_change)


def test_fast_fp8_keeps_the_scales_of_a_quantised_checkpoint(host, tmp_path, monkeypatch):
    """On a GPU with fp8 arithmetic too, the host's quantised layers stay: its plain fp8 layers know no scales."""
    monkeypatch.setattr(host.comfy.model_management, "supports_fp8_compute", lambda device=None: True)
    plain, settings = tiny.load(host, tiny.sd3_transformer()), Sampling(steps=2)
    weights = tiny.weights_of(plain)
    path = tmp_path / "scaled.safetensors"
    save_file({f"model.diffusion_model.{name}": value for name, value in scaled_fp8(weights).items()}, path)
    checkpoints = host.module("nodes.host.models.checkpoints")
    fast, default = (
        checkpoints.load_model(path, checkpoints.WEIGHT_DTYPES[name]) for name in ("fp8_e4m3fn_fast", "default")
    )
    exact = settings.run(host, plain)
    error, expected = (rms(settings.run(host, model) - exact) for model in (fast, default))
    assert 0 < error < 3 * expected + 0.05 * rms(exact)
