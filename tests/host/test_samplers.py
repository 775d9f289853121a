"""RLG under every stock scheduler, in sampling in stages and under guiders with settings, against two plain models.

`test_every_node` runs every sampler, guider and sampling node at its defaults.
"""

from __future__ import annotations

import pytest
import torch

from support import tiny
from support.guiding import guide, stock_node, two_passes
from support.sampling import Sampling, conditioning
from support.tensors import largest, rms


@pytest.fixture(scope="module")
def models(host):
    """A base, its RL version on the same weights, and both again with weights of their own."""
    return *tiny.sd3_pair(host), tiny.sd3_pair(host)[1]


@pytest.fixture(scope="module")
def both(host, models):
    """(guided, reference) at scale 2."""
    model, rl_model, rl_copy = models
    return guide(host, model, rl_model, 2.0), two_passes(host, model, rl_copy, 2.0)


def agree(guided: torch.Tensor, reference: torch.Tensor) -> bool:
    """Equal to float32 rounding, relative to the latents' size."""
    assert torch.isfinite(guided).all()
    return largest(guided, reference) < 2e-4 * max(1.0, rms(reference))


SCHEDULERS = [
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "normal",
    "linear_quadratic",
    "kl_optimal",
]


def test_no_stock_scheduler_is_missing_here(host):
    assert set(host.comfy.samplers.SCHEDULER_NAMES) <= set(SCHEDULERS)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers(host, both, models, scheduler):
    settings = Sampling(steps=4, scheduler=scheduler)
    guided, reference = (settings.run(host, model) for model in both)
    assert agree(guided, reference)
    assert not agree(settings.run(host, models[0]), reference)


# Sampling nodes


def latent(**extra):
    return {"samples": torch.zeros(1, 16, 8, 8), **extra}


COMMON = {"steps": 4, "cfg": 4.5, "sampler_name": "euler", "scheduler": "simple"}


def ksampler_advanced(host, model, settings):
    """In two stages, the second continuing the first."""
    shared = {"model": model, "noise_seed": 3, "positive": settings.positive, "negative": settings.negative, **COMMON}
    first = stock_node(
        host,
        "KSamplerAdvanced",
        add_noise="enable",
        latent_image=latent(),
        start_at_step=0,
        end_at_step=2,
        return_with_leftover_noise="enable",
        **shared,
    )
    return stock_node(
        host,
        "KSamplerAdvanced",
        add_noise="disable",
        latent_image=first,
        start_at_step=2,
        end_at_step=1000,
        return_with_leftover_noise="disable",
        **shared,
    )


def schedule(host, model):
    sampler = stock_node(host, "KSamplerSelect", sampler_name="euler")
    return sampler, stock_node(host, "BasicScheduler", model=model, scheduler="simple", steps=4, denoise=1.0)


def with_guider(make):
    def run(host, model, settings):
        sampler, sigmas = schedule(host, model[0] if isinstance(model, tuple) else model)
        noise = stock_node(host, "RandomNoise", noise_seed=3)
        return stock_node(
            host,
            "SamplerCustomAdvanced",
            noise=noise,
            guider=make(host, model, settings),
            sampler=sampler,
            sigmas=sigmas,
            latent_image=latent(),
        )

    run.__name__ = make.__name__
    return run


@with_guider
def dual_cfg_guider_nested(host, model, settings):
    prompts = {"cond1": settings.positive, "cond2": conditioning(13), "negative": settings.negative}
    scales = {"cfg_conds": 5.0, "cfg_cond2_negative": 3.0}
    return stock_node(host, "DualCFGGuider", model=model, style="nested", **prompts, **scales)


@with_guider
def cfg_override(host, model, settings):
    model = stock_node(host, "CFGOverride", model=model, cfg=2.0, start_percent=0.2, end_percent=0.8)
    return stock_node(host, "CFGGuider", model=model, positive=settings.positive, negative=settings.negative, cfg=4.5)


NODES = [ksampler_advanced, dual_cfg_guider_nested, cfg_override]


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_nodes_and_guiders(host, both, models, node):
    settings = Sampling()
    guided, reference, base = (node(host, model, settings)["samples"] for model in (*both, models[0]))
    assert agree(guided, reference)
    assert not agree(base, reference)


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_scale_0_under_nodes_and_guiders(host, models, node):
    model, rl_model, _ = models
    settings = Sampling()
    guided, base = (node(host, m, settings)["samples"] for m in (guide(host, model, rl_model, 0.0), model))
    assert torch.equal(guided, base)


# What cannot be supported says so


def test_the_two_model_guider_is_refused(host, both, models):
    if "DualModelGuider" not in host.classes:
        pytest.skip("not in this host")
    settings, error = Sampling(), host.module("rlg_core.errors").RunError

    @with_guider
    def dual_model(host, pair, settings):
        model, negative_model = pair
        return stock_node(
            host,
            "DualModelGuider",
            model=model,
            model_negative=negative_model,
            positive=settings.positive,
            negative=settings.negative,
            cfg=4.5,
        )

    guided, plain = both[0], models[0]
    remedy = "Set its cfg to 1"
    for pair, told in (((guided, plain), remedy), ((guided, guided), remedy), ((plain, guided), "")):
        with pytest.raises(error, match=f"Dual Model CFG Guider.*{told}"):
            dual_model(host, pair, settings)
    assert torch.isfinite(dual_model(host, (plain, models[2]), settings)["samples"]).all()


def test_a_split_over_several_gpus_is_refused(host, both, models):
    if not hasattr(both[0], "deepclone_multigpu"):
        pytest.skip("not in this host")
    split = both[0].clone()
    split.set_additional_models("multigpu", [models[0].clone()])
    with pytest.raises(host.module("rlg_core.errors").RunError, match="MultiGPU"):
        Sampling(steps=2).run(host, split)
