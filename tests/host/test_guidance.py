"""RLG on a LoRA pair against the paper's own loop: diffusers and PEFT, adapter on and off, two passes a step."""

from __future__ import annotations

import paper
import pytest
import tiny
import torch


@pytest.fixture(scope="module")
def sd3(host):
    transformer = tiny.sd3_transformer()
    model = tiny.load(host, transformer)
    adapted = tiny.with_adapter(transformer, tiny.SD3_TARGETS)
    rl_model = tiny.with_lora(host, model, tiny.lora_file(adapted, alpha=8))
    return adapted, model, rl_model


def apply(host, model, rl_model, scale, start=0.0, end=1.0, outside=1.0, rescale=0.0):
    return host.classes["RLGApply"].execute(model, rl_model, scale, start, end, outside, rescale).result[0]


@pytest.mark.parametrize("cfg", [1.0, 4.5])
@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0, 1.6, 3.0])
def test_equals_the_papers_loop(host, sd3, scale, cfg):
    adapted, model, rl_model = sd3
    settings = tiny.Sampling(cfg=cfg)
    latent = settings.run(host, apply(host, model, rl_model, scale))
    sigmas = settings.sigmas(host, model)
    expected = paper.sample(adapted, settings, sigmas, paper.guidance(scale, cfg))
    assert (model.model.process_latent_in(latent) - expected).abs().max() < 1e-4
    assert tiny.rms(expected - paper.sample(adapted, settings, sigmas, paper.guidance(scale + 0.5, cfg))) > 1e-2


def test_scale_0_is_the_base_graph_to_the_bit(host, sd3):
    _, model, rl_model = sd3
    settings = tiny.Sampling()
    assert torch.equal(settings.run(host, apply(host, model, rl_model, 0.0)), settings.run(host, model))


def test_scale_1_is_the_rl_graph(host, sd3):
    _, model, rl_model = sd3
    settings = tiny.Sampling()
    plain = settings.run(host, rl_model)
    assert (settings.run(host, apply(host, model, rl_model, 1.0)) - plain).abs().max() < 1e-4
    assert tiny.rms(plain - settings.run(host, model)) > 1e-2


@pytest.mark.parametrize(("scale", "rows"), [(0.0, 2), (1.0, 2), (2.0, 4)])
def test_rows_of_every_model_call(host, sd3, scale, rows):
    _, model, rl_model = sd3
    settings = tiny.Sampling(steps=4)
    guided = apply(host, model, rl_model, scale)
    settings.run(host, guided)  # the first run verifies
    with tiny.counted_calls(guided) as calls:
        settings.run(host, guided)
    assert calls == [rows] * 4
