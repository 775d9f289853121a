"""Budgets that merge experts or leave CFG out, and the bound on what guidance adds."""

from __future__ import annotations

import pytest
import torch

from support import tiny
from support.guiding import guide, run_node
from support.sampling import Sampling, counted_calls
from support.tensors import largest, random

KEY = "diffusion_model.joint_blocks.{}.x_block.attn.proj"


@pytest.fixture(scope="module")
def models(host):
    """A base and two RL models of it, beside the same weights."""
    model, first = tiny.sd3_pair(host)
    return model, first, tiny.with_lora(host, model, other_lora())


def other_lora():
    lora = {}
    for block in range(2):
        lora[KEY.format(block) + ".lora_up.weight"] = random(128, 4, seed=block, size=0.2)
        lora[KEY.format(block) + ".lora_down.weight"] = random(4, 128, seed=9 + block, size=0.3)
    return lora


def budget(host, model, evaluate="exact", experts="exact"):
    return run_node(host, "RLGBudget", model, evaluate, 1, 0.0, "auto", experts)[0]


# Merged experts


def stacked(host, models, *scales):
    guided = models[0]
    for rl_model, scale in zip(models[1:], scales, strict=True):
        guided = guide(host, guided, rl_model, scale)
    return guided


def chained(host, models, shares):
    """The base with both adapters on it at the given strengths, by the host's own loader."""
    once = tiny.with_lora(host, models[0], tiny.sd3_lora(), shares[0])
    return tiny.with_lora(host, once, other_lora(), shares[1])


@pytest.mark.parametrize("scales", [(1.0, 1.0), (1.5, 0.5), (2.0, -0.5), (0.3, 0.7)], ids=str)
def test_merged_experts_are_one_model_at_the_total_scale(host, models, scales):
    settings, total = Sampling(steps=4), sum(scales)
    merged = budget(host, stacked(host, models, *scales), experts="merged")
    found = settings.run(host, merged)
    together = chained(host, models, [scale / total for scale in scales])
    assert largest(found, settings.run(host, guide(host, models[0], together, total))) < 5e-5
    exact = settings.run(host, stacked(host, models, *scales))
    assert largest(found, exact) > 1e-5, "it costs less, so it cannot be the same"
    with counted_calls(merged) as calls:
        settings.run(host, merged)
    assert calls == [4 if total != 1.0 else 2] * 4


def test_experts_that_cancel_are_not_merged(host, models):
    settings = Sampling(steps=2)
    merged = settings.run(host, budget(host, stacked(host, models, 1.0, -1.0), experts="merged"))
    assert torch.equal(merged, settings.run(host, stacked(host, models, 1.0, -1.0)))


def test_one_expert_has_nothing_to_merge(host, models):
    settings, one = Sampling(steps=2), guide(host, *models[:2], 1.7)
    assert torch.equal(settings.run(host, budget(host, one, experts="merged")), settings.run(host, one))


def test_merged_experts_at_scales_of_their_own_per_picture(host, models):
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    latents, schedule, _ = run_node(host, "RLGBatchSweep", latent, "0.5, 2")
    settings = Sampling(steps=2, shape=tuple(latents["samples"].shape))
    guided = guide(host, guide(host, *models[:2], schedule=schedule), models[2], 1.0)
    both = settings.run(host, budget(host, guided, experts="merged"))
    for item, scale in enumerate((0.5, 2.0)):
        alone = Sampling(steps=2)
        alone.noise = lambda item=item: settings.noise()[item : item + 1]
        one = alone.run(host, budget(host, stacked(host, models, scale, 1.0), experts="merged"))
        assert largest(one, both[item : item + 1]) < 5e-5


def test_merged_refuses_what_it_would_lose(host, models):
    guided = guide(host, guide(host, *models[:2]), models[2], mask=torch.ones(1, 8, 8))
    with pytest.raises(ValueError, match="experts `merged` cannot honour a mask"):
        budget(host, guided, experts="merged")
    own_weights = tiny.load(host, tiny.sd3_transformer(seed=9))
    with pytest.raises(ValueError, match="an RL checkpoint"):
        guide(host, budget(host, stacked(host, models, 1.0, 1.0), experts="merged"), own_weights)


# Segmented guidance


def test_segmented_is_guidance_without_cfg_where_the_scale_is_not_1(host, models):
    settings, no_cfg = Sampling(steps=4), Sampling(steps=4, cfg=1.0)
    found = settings.run(host, budget(host, guide(host, *models[:2], 2.0), "segmented"))
    assert largest(found, no_cfg.run(host, guide(host, *models[:2], 2.0))) < 5e-5


def test_segmented_is_the_rl_model_with_cfg_where_the_scale_is_1(host, models):
    settings = Sampling(steps=4)
    found = settings.run(host, budget(host, guide(host, *models[:2], 1.0), "segmented"))
    assert largest(found, settings.run(host, models[1])) < 5e-5


def test_segmented_evaluates_two_predictions_at_every_step(host, models):
    settings = Sampling(steps=6)
    guided = budget(host, guide(host, *models[:2], 2.0, end_percent=0.5), "segmented")
    found = settings.run(host, guided)
    with counted_calls(guided) as calls:
        settings.run(host, guided)
    assert calls == [2] * 6
    reference = host.comfy.samplers.CFGGuider(guide(host, *models[:2], 2.0, end_percent=0.5))
    half = float(models[0].get_model_object("model_sampling").percent_to_sigma(0.5))
    reference.set_conds(settings.positive, settings.negative)
    reference.set_cfg(settings.cfg)
    plain = type(reference).predict_noise

    def switching(x, timestep, model_options, seed=None):
        reference.cfg = 1.0 if float(timestep[0]) >= half - 1e-4 else settings.cfg
        return plain(reference, x, timestep, model_options, seed)

    reference.predict_noise = switching
    sigmas = settings.sigmas(host, models[0])
    euler = host.comfy.samplers.sampler_object("euler")
    expected = reference.sample(settings.noise(), torch.zeros(settings.shape), euler, sigmas, seed=3, disable_pbar=True)
    assert largest(found, expected) < 5e-5


@pytest.mark.parametrize(
    ("inputs", "lost"),
    [
        ({"outside_scale": 0.0}, "an outside_scale other than 1"),
        ({"mask": torch.ones(1, 8, 8)}, "a mask"),
    ],
)
def test_segmented_refuses_what_it_would_lose(host, models, inputs, lost):
    with pytest.raises(ValueError, match=lost):
        budget(host, guide(host, *models[:2], **inputs), "segmented")


# The bound on what guidance adds


def first_step(host, models, settings, model):
    """The denoised prediction of the first step, as the network sees it: one Euler step goes all the way."""
    return models[0].model.process_latent_in(settings.run(host, model))


@pytest.mark.parametrize(("scale", "max_ratio"), [(3.0, 0.05), (3.0, 0.5), (3.0, 50.0), (1.0, 0.02)])
def test_guidance_adds_at_most_its_share_of_the_base(host, models, scale, max_ratio):
    """Per picture, in velocity; at scale 1, where the base itself counts nothing, its size does."""
    settings = Sampling(steps=1, cfg=1.0, shape=(2, 16, 8, 8))
    base = first_step(host, models, settings, models[0])
    wanted = first_step(host, models, settings, guide(host, *models[:2], scale)) - base
    added = first_step(host, models, settings, guide(host, *models[:2], scale, max_ratio=max_ratio)) - base
    velocity = settings.noise() * float(settings.sigmas(host, models[0])[0]) - base
    for k in range(2):
        expected = min(max_ratio * float(velocity[k].norm()), float(wanted[k].norm()))
        assert float(added[k].norm()) == pytest.approx(expected, rel=1e-3)
        cosine = torch.nn.functional.cosine_similarity(added[k].flatten(), wanted[k].flatten(), 0)
        assert float(cosine) > 0.999


def test_a_wide_bound_changes_nothing(host, models):
    settings = Sampling(steps=3)
    assert (
        largest(
            settings.run(host, guide(host, *models[:2], max_ratio=10.0)), settings.run(host, guide(host, *models[:2]))
        )
        < 1e-5
    )
