"""What the pack keeps from run to run is as little after many settings as after a few."""

from __future__ import annotations

import gc
from functools import cache
from typing import NamedTuple

import pytest
import torch

from support import tiny
from support.guiding import guide, stock_node
from support.sampling import Sampling, counted_calls
from support.tensors import random

SETTINGS = Sampling(steps=1)
TIMES = 20
TIMES_OF_VERDICTS = 100
"""Settings in a row, several times as many as are kept; verdicts are small and kept in greater number."""

VERIFIED, TRUSTED = [4, 2, 2], [4]
"""Rows of each call of a run: with base and RL model in one batch, which separate passes confirm the first time."""

SHAPES = {"attn.qkv": (384, 128), "attn.proj": (128, 128), "mlp.fc1": (512, 128), "mlp.fc2": (128, 512)}
LAYERS = {
    f"diffusion_model.joint_blocks.{block}.x_block.{name}": shape for block in (0, 1) for name, shape in SHAPES.items()
}


@pytest.fixture
def pair(host):
    """A model of this test's own, and its RL version."""
    return tiny.sd3_pair(host)


@cache
def rl_adapter():
    return tiny.sd3_lora()


class Kept(NamedTuple):
    """Term banks that are alive, those in the cache, and verdicts on one model."""

    alive: int
    banks: int
    verdicts: int

    @classmethod
    def now(cls, host, model):
        gc.collect()
        bank = host.module("nodes.host.models.term_bank")
        kept = host.module("nodes.host.run.verification")._kept
        alive = sum(type(thing) is bank.TermBank for thing in gc.get_objects())
        return cls(alive, sum(map(len, bank._banks.values())), len(kept.get(model.model, ())))


def most(host):
    """(term banks per RL model, verdicts per model) that are kept at most."""
    bounds = [host.module(name).KEPT for name in ("nodes.host.models.term_bank", "nodes.host.run.verification")]
    assert bounds[0] < TIMES and bounds[1] < TIMES_OF_VERDICTS, "a bound that is never reached bounds nothing"
    return bounds


def turned(host, model, setting, times=TIMES):
    """Samples a step at each setting; returns the rows of each run's calls, and what has been kept since."""
    before, calls = Kept.now(host, model), []
    for k in range(times):
        guided = setting(k)
        with counted_calls(guided) as rows:
            assert torch.isfinite(SETTINGS.run(host, guided)).all()
        calls.append(rows)
    del guided
    return calls, Kept(*(after - then for after, then in zip(Kept.now(host, model), before)))


def style(seed=0, layers=tuple(LAYERS)):
    """A style LoRA on some layers."""
    lora = {}
    for name in layers:
        rows, columns = LAYERS[name]
        lora[f"{name}.lora_up.weight"] = random(rows, 2, seed=seed, size=0.1)
        lora[f"{name}.lora_down.weight"] = random(2, columns, seed=seed, size=0.1)
    return lora


# k -> the model to sample


def strength_of_a_style_on_the_base(host, model, rl_model, k):
    return guide(host, tiny.with_lora(host, model, style(), 0.01 * (k + 1)), rl_model)


def strength_of_a_style_after_rlg(host, model, rl_model, k):
    return tiny.with_lora(host, guide(host, model, rl_model), style(), 0.01 * (k + 1))


def other_styles_on_the_base(host, model, rl_model, k):
    return guide(host, tiny.with_lora(host, model, style(k)), rl_model)


def other_styles_after_rlg(host, model, rl_model, k):
    return tiny.with_lora(host, guide(host, model, rl_model), style(k))


def strength_of_the_rl_adapter(host, model, rl_model, k):
    return guide(host, model, tiny.with_lora(host, model, rl_adapter(), 0.01 * (k + 1)))


@pytest.mark.parametrize(
    "setting",
    [
        strength_of_a_style_on_the_base,
        strength_of_a_style_after_rlg,
        other_styles_on_the_base,
        other_styles_after_rlg,
        strength_of_the_rl_adapter,
    ],
    ids=lambda setting: setting.__name__,
)
def test_values_are_verified_once_and_kept_in_few(host, pair, setting):
    calls, kept = turned(host, pair[0], lambda k: setting(host, *pair, k))
    assert calls == [VERIFIED, *[TRUSTED] * (TIMES - 1)]
    assert max(kept.alive, kept.banks) <= most(host)[0] and kept.verdicts == 1


def test_terms_on_other_layers_are_verified_and_old_verdicts_forgotten(host, pair):
    """Each run's RL model changes layers of its own."""
    model = pair[0]

    def setting(k):
        layers = [name for bit, name in enumerate(LAYERS) if (k + 1) >> bit & 1]
        return guide(host, model, tiny.with_lora(host, model, style(layers=layers)))

    calls, kept = turned(host, model, setting, TIMES_OF_VERDICTS)
    assert calls == [VERIFIED] * TIMES_OF_VERDICTS
    assert max(kept.alive, kept.banks) <= most(host)[0] and kept.verdicts == most(host)[1]


def merged(host, guided, other, ratio):
    return stock_node(host, "ModelMergeSimple", model1=guided, model2=other, ratio=ratio)


def test_ratios_of_a_merge_after_rlg(host, pair):
    """Beside those under the last ratios there are the RL model's own terms."""
    other = tiny.load(host, tiny.sd3_transformer(seed=4))
    _, kept = turned(host, pair[0], lambda k: merged(host, guide(host, *pair), other, 0.005 * (k + 1)))
    assert max(kept.alive, kept.banks) <= most(host)[0] + 1 and kept.verdicts <= 2


def test_strengths_of_the_rl_adapter_before_a_merge(host, pair):
    other = tiny.load(host, tiny.sd3_transformer(seed=4))
    model = pair[0]
    _, kept = turned(host, model, lambda k: merged(host, strength_of_the_rl_adapter(host, *pair, k), other, 0.5))
    assert max(kept.alive, kept.banks) <= most(host)[0] and kept.verdicts == 1
