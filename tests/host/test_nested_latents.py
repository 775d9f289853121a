"""Latents of several tensors, video with sound: guided as one, and refused where a node cannot tell the parts apart."""

from __future__ import annotations

import pytest
import torch

from support.guiding import guide, run_node
from support.layouts import SmallModels
from support.oracle import two_models
from support.tensors import largest, rms

SHAPES = ((1, 128, 2, 4, 4), (1, 8, 6, 16))
"""Two frames of video and six of sound."""


@pytest.fixture(scope="module")
def sounding(host):
    if not hasattr(host.comfy.supported_models, "LTXAV"):
        pytest.skip("this ComfyUI has no model with such latents")
    return SmallModels(host, "LTXAV")


def sampled(host, models, model, **settings):
    """Video and sound, made together."""
    nested = host.comfy.nested_tensor.NestedTensor
    run = models.sampling(**settings)
    run.latent = nested([torch.zeros(shape) for shape in SHAPES])
    generator = torch.Generator().manual_seed(run.seed)
    run.noise = lambda: nested([torch.randn(shape, generator=generator) for shape in SHAPES])
    return run.run(host, model).unbind()


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])
def test_video_with_sound(host, sounding, scale):
    guided = guide(host, sounding.model, sounding.rl_model, scale)
    found = sampled(host, sounding, guided)
    expected = sampled(host, sounding, two_models(host, sounding.model, sounding.rl_alone, scale))
    plain = sampled(host, sounding, sounding.model)
    for part, other, base, shape in zip(found, expected, plain, SHAPES):
        assert part.shape == shape and largest(part, other) < 1e-4 * max(1.0, rms(other))
        assert scale == 0.0 or largest(part, base) > 1e-3


def test_a_mask_is_refused(host, sounding):
    guided = guide(host, sounding.model, sounding.rl_model, 2.0, mask=torch.full((1, 8, 8), 0.5))
    with pytest.raises(ValueError, match="A mask needs a latent with height and width"):
        sampled(host, sounding, guided)


def test_nodes_that_need_one_tensor_say_so(host, sounding):
    latent = {"samples": host.comfy.nested_tensor.NestedTensor([torch.zeros(shape) for shape in SHAPES])}
    with pytest.raises(ValueError, match=r"several tensors \(video with sound\): use RLG Sweep"):
        run_node(host, "RLGBatchSweep", latent, "0, 1")
    models = {"model": sounding.model, "rl_model": sounding.rl_model, "positive": sounding.conditioning(1)}
    with pytest.raises(ValueError, match=r"several tensors \(video with sound\): RLG Implicit Reward scores"):
        run_node(host, "RLGImplicitReward", **models, latent=latent, draws=2, seed=1)
    judge = host.module("nodes.host.scores.auto_scale").Judge
    with pytest.raises(ValueError, match=r"several tensors \(video with sound\): RLG Auto Scale judges pictures"):
        judge(sounding.model, sounding.rl_model, None, latent, [], None, None, 1)
