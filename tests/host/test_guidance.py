"""RLG on a LoRA pair against the paper's own loop: diffusers and PEFT, adapter on and off, two passes a step."""

from __future__ import annotations

import pytest
import torch

from support import paper, tiny
from support.guiding import guide
from support.sampling import Sampling, counted_calls
from support.tensors import rms


@pytest.fixture(scope="module")
def sd3(host):
    return tiny.sd3_adapted(), *tiny.sd3_pair(host)


@pytest.mark.parametrize("cfg", [1.0, 4.5])
@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0, 1.6, 3.0])
def test_equals_the_papers_loop(host, sd3, scale, cfg):
    adapted, model, rl_model = sd3
    settings = Sampling(cfg=cfg)
    latent = settings.run(host, guide(host, model, rl_model, scale))
    sigmas = settings.sigmas(host, model)
    expected = paper.sample(adapted, settings, sigmas, paper.guidance(scale, cfg))
    assert (model.model.process_latent_in(latent) - expected).abs().max() < 1e-4
    assert rms(expected - paper.sample(adapted, settings, sigmas, paper.guidance(scale + 0.5, cfg))) > 1e-2


def test_scale_0_is_the_base_graph_to_the_bit(host, sd3):
    _, model, rl_model = sd3
    settings = Sampling()
    assert torch.equal(settings.run(host, guide(host, model, rl_model, 0.0)), settings.run(host, model))


def test_scale_1_is_the_rl_graph(host, sd3):
    _, model, rl_model = sd3
    settings = Sampling()
    plain = settings.run(host, rl_model)
    assert (settings.run(host, guide(host, model, rl_model, 1.0)) - plain).abs().max() < 1e-4
    assert rms(plain - settings.run(host, model)) > 1e-2


@pytest.mark.parametrize(("scale", "rows"), [(0.0, 2), (1.0, 2), (2.0, 4)])
def test_rows_of_every_model_call(host, sd3, scale, rows):
    _, model, rl_model = sd3
    settings = Sampling(steps=4)
    guided = guide(host, model, rl_model, scale)
    settings.run(host, guided)  # the first run verifies
    with counted_calls(guided) as calls:
        settings.run(host, guided)
    assert calls == [rows] * 4
