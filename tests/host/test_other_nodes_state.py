"""Nodes that remember, draw or skip inside the model: right as two separate models would be, or an error that says why.

Each is a small stand-in for a mechanism that well-known packs use.
"""

from __future__ import annotations

import logging
import random as python_random
import uuid
from importlib import import_module
from types import MethodType
from unittest import mock

import pytest
import torch
from torch import nn

from support import tiny
from support.guiding import guide, stock_node
from support.oracle import generators, two_models
from support.sampling import Sampling, counted_calls, unet_sampling
from support.tensors import largest, random, rms

BLOCKS = 3


@pytest.fixture(scope="module")
def loaded(host):
    """A base, its RL version beside the same weights, and both once more as models of their own."""
    lora = tiny.sd3_lora(depth=BLOCKS)
    transformer = tiny.sd3_transformer(depth=BLOCKS)
    model, other = tiny.load(host, transformer), tiny.load(host, transformer)
    return model, tiny.with_lora(host, model, lora), tiny.with_lora(host, other, lora)


@pytest.fixture(params=["auto", "sequential"])
def batching(request):
    return request.param


def budgeted(host, model, batching):
    return host.classes["RLGBudget"].execute(model, "exact", 1, 0.0, batching).result[0]


def agree(host, loaded, put_on, batching="auto", scale=2.0, settings=None, tolerance=5e-5):
    """RLG on a model with a node after it equals two models that have the node each; returns the latent."""
    model, rl_model, rl_alone = loaded
    settings = settings or Sampling(steps=6)
    guided = put_on(budgeted(host, guide(host, model, rl_model, scale), batching))
    expected = settings.run(host, two_models(host, put_on(model), put_on(rl_alone), scale))
    found = settings.run(host, guided)
    assert largest(found, expected) < tolerance * max(1.0, rms(expected))
    assert largest(found, settings.run(host, put_on(model))) > 1e-3
    again = settings.run(host, guided)
    assert largest(again, expected) < tolerance * max(1.0, rms(expected)), "the second run is another"
    return found


# Random numbers


def drawing(model):
    """Merges tokens at random places, as ToMe and HyperTile do: from torch's, Python's and NumPy's generators."""

    def patch(args, extra):
        noise = torch.randn(1, args["img"].shape[1], 1) * 0.2 + python_random.random() * 0.05
        return extra["original_block"]({**args, "img": args["img"] * (1 + noise)})

    clone = model.clone()
    clone.set_model_patch_replace(patch, "dit", "double_block", 1)
    return clone


def test_base_and_rl_model_draw_the_same_numbers(host, loaded, batching):
    settings = Sampling(steps=3)
    torch.manual_seed(4)
    state = generators()
    found = None
    for _ in range(2):
        torch.set_rng_state(state[0])
        python_random.setstate(state[1])
        model, rl_model, rl_alone = loaded
        guided = drawing(budgeted(host, guide(host, model, rl_model, 2.0), batching))
        latent = settings.run(host, guided)
        assert found is None or torch.equal(found, latent), "the same seed gives another picture"
        found = latent
    after = torch.get_rng_state()
    torch.set_rng_state(state[0])
    python_random.setstate(state[1])
    expected = settings.run(host, two_models(host, drawing(model), drawing(rl_alone), 2.0))
    assert largest(found, expected) < 5e-5 * max(1.0, rms(expected))
    torch.set_rng_state(state[0])
    settings.run(host, drawing(model))
    assert torch.equal(torch.get_rng_state(), after), "the run goes on from other random numbers than the plain one"


def test_a_device_whose_generator_cannot_be_read(host, caplog):
    """DirectML's: what is drawn on the CPU is still the same for every pass, and the log names the rest."""
    randomness = host.module("nodes.host.run.randomness")
    randomness._warn_of_unreadable.cache_clear()
    drawn = []
    with randomness.same_for_every_pass(torch.device("privateuseone")) as start:
        for _ in range(3):
            with start.one_pass(start.device):
                drawn.append(torch.randn(1))
    assert drawn[0] == drawn[1] == drawn[2]
    assert [record.message for record in caplog.records if "'privateuseone'" in record.message] == caplog.messages
    assert len(caplog.messages) == 1


DRAWING_NODES = {
    "TomePatchModel": {"ratio": 0.5},
    "HyperTile": {"tile_size": 64, "swap_size": 4, "max_depth": 2, "scale_depth": False},
}


@pytest.mark.parametrize(("name", "inputs"), DRAWING_NODES.items(), ids=DRAWING_NODES)
def test_stock_nodes_that_draw(host, name, inputs):
    weights = tiny.unet_weights(host)
    lora = {}
    for key, value in weights.items():
        if "attn" in key and key.endswith(".weight") and value.ndim == 2:
            stem = "diffusion_model." + key.removesuffix(".weight")
            lora[f"{stem}.lora_up.weight"] = random(len(value), 4, seed=1, size=0.05)
            lora[f"{stem}.lora_down.weight"] = random(4, value.shape[1], seed=2, size=0.3)
    model, other = (tiny.load_weights(host, weights) for _ in range(2))
    pair = (model, tiny.with_lora(host, model, lora), tiny.with_lora(host, other, lora))
    settings = unet_sampling(steps=2, shape=(1, 4, 32, 32))

    def put_on(model):
        return stock_node(host, name, model=model, **inputs)

    torch.manual_seed(9)
    found = settings.run(host, put_on(guide(host, model, pair[1], 2.0)))
    torch.manual_seed(9)
    expected = settings.run(host, two_models(host, put_on(model), put_on(pair[2]), 2.0))
    assert largest(found, expected) < 5e-5 * max(1.0, rms(expected))


# Activations kept from call to call


class KeysAndValues:
    """A patch that uses the text stream of its first call in all later ones, as key/value caches do."""

    def __init__(self):
        self.cache = {}

    def __call__(self, args, extra):
        if "txt" in self.cache:
            kept = self.cache["txt"]
            args = {**args, "txt": kept.repeat(len(args["txt"]) // len(kept) + 1, 1, 1)[: len(args["txt"])]}
        else:
            self.cache["txt"] = args["txt"].clone()
        return extra["original_block"](args)


def in_an_object(model):
    clone = model.clone()
    clone.set_model_patch_replace(KeysAndValues(), "dit", "double_block", 1)
    return clone


def in_a_closure(model):
    """Keyed by the conditionings' places, which are the same for base and RL model."""
    kept = {}

    def patch(args, extra):
        key = tuple(args.get("transformer_options", {}).get("cond_or_uncond", (len(args["img"]),)))
        if key in kept:
            args = {**args, "txt": kept[key]}
        kept[key] = args["txt"]
        return extra["original_block"](args)

    clone = model.clone()
    clone.set_model_patch_replace(patch, "dit", "double_block", 1)
    return clone


@pytest.mark.parametrize("put_on", [in_an_object, in_a_closure], ids=lambda f: f.__name__)
def test_kept_activations_are_each_models_own(host, loaded, put_on, batching):
    agree(host, loaded, put_on, batching)


def residual_cache(model, every=2):
    """Answers every other call of the network with its last change, as TeaCache does."""
    network = model.model.diffusion_model

    def forward(x, *args, **kwargs):
        state = network.__dict__.setdefault("cached_residual", {"calls": 0})
        state["calls"] += 1
        hidden = network.x_embedder(x)  # an embedder runs in every call
        if state["calls"] % every == 0:
            return x + state["residual"]
        y = type(network).forward(network, x, *args, **kwargs)
        state["residual"] = y - x + 0 * hidden.sum()
        return y

    def around(apply_model, args):
        if float(args["timestep"][0]) >= 1.0:
            network.__dict__.pop("cached_residual", None)
        network.__dict__["forward"] = forward
        try:
            return apply_model(args["input"], args["timestep"], **args["c"])
        finally:
            del network.__dict__["forward"]

    clone = model.clone()
    clone.set_model_unet_function_wrapper(around)
    return clone


def test_a_residual_cache_has_a_state_for_each_model(host, loaded, batching):
    agree(host, loaded, residual_cache, batching)


def hidden_cache(model):
    """The same where nobody can see it: in a module's globals."""

    def patch(args, extra):
        HIDDEN["calls"] = HIDDEN.get("calls", 0) + 1
        if "img" in HIDDEN and HIDDEN["calls"] % 2 == 0 and HIDDEN["img"].shape == args["img"].shape:
            return {"img": HIDDEN["img"], "txt": args["txt"]}
        out = extra["original_block"](args)
        HIDDEN["img"] = out["img"]
        return out

    clone = model.clone()
    clone.set_model_patch_replace(patch, "dit", "double_block", 1)
    clone.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"], args["timestep"], **args["c"]))
    return clone


HIDDEN: dict = {}


def test_a_cache_whose_state_is_hidden_is_refused(host, loaded, batching):
    HIDDEN.clear()
    model, rl_model, _ = loaded
    guided = hidden_cache(budgeted(host, guide(host, model, rl_model, 2.0), batching))
    with pytest.raises(ValueError, match=r"1 of 8 blocks of the network did not run .* A cache node"):
        Sampling(steps=4).run(host, guided)


def test_a_hidden_cache_between_two_steps_of_one_model_each(host, loaded):
    """The base at first, then the RL model: what the base left behind must not answer for it."""
    HIDDEN.clear()
    model, rl_model, _ = loaded
    guided = hidden_cache(guide(host, model, rl_model, 1.0, start_percent=0.2, outside_scale=0.0))
    with pytest.raises(ValueError, match="A cache node"):
        Sampling(steps=4).run(host, guided)


# Patches that know the batch


def averaging(share):
    """Moves every row towards the mean of the batch, as packs for consistent batches or enhanced videos do."""

    def put_on(model):
        def patch(args, extra):
            mean = args["img"].mean(0, keepdim=True)
            return extra["original_block"]({**args, "img": args["img"] + share * (mean - args["img"])})

        clone = model.clone()
        clone.set_model_patch_replace(patch, "dit", "double_block", 1)
        return clone

    return put_on


@pytest.mark.parametrize("share", [0.5, 0.02, 0.002])
def test_rows_that_know_each_other_are_never_base_and_rl_model(host, loaded, share, caplog):
    """However little: rounding is measured, not guessed."""
    caplog.set_level(logging.WARNING)
    agree(host, loaded, averaging(share))
    assert any("separate passes" in record.message for record in caplog.records)


def test_a_patch_that_leaves_blocks_out_at_some_steps(host, loaded, batching):
    """For base and RL model alike, and without any memory: nothing to refuse."""

    def skipping(model):
        def patch(args, extra):
            late = float(SIGMA[0]) < 0.5
            return {"img": args["img"], "txt": args["txt"]} if late else extra["original_block"](args)

        def around(executor, x, t, *args, **kwargs):
            SIGMA[0] = t[0]
            return executor(x, t, *args, **kwargs)

        clone = model.clone()
        clone.set_model_patch_replace(patch, "dit", "double_block", 1)
        clone.add_wrapper_with_key(host.comfy.patcher_extension.WrappersMP.APPLY_MODEL, "sigma", around)
        return clone

    agree(host, loaded, skipping, batching)


SIGMA = [1.0]


def test_plain_graphs_stay_batched(host, loaded):
    model, rl_model, _ = loaded
    guided = guide(host, model, rl_model, 2.0)
    Sampling(steps=2).run(host, guided)
    with counted_calls(guided) as calls:
        Sampling(steps=2).run(host, guided)
    assert calls == [4, 4]


# Functions of the network, replaced for the time of a call


def with_another_forward(model):
    """A function wrapper under which the forward of the network is another one, as under those of caches."""
    network = model.get_model_object("diffusion_model")

    def forward(self, x, *args, **kwargs):
        return type(self).forward(self, x * 0.9, *args, **kwargs)

    def wrapper(function, given):
        with mock.patch.object(network, "forward", MethodType(forward, network)):
            return function(given["input"], given["timestep"], **given["c"])

    clone = model.clone()
    clone.set_model_unet_function_wrapper(wrapper)
    return clone


def test_a_replaced_forward_is_right_beside_the_same_weights(host, loaded, batching):
    agree(host, loaded, with_another_forward, batching)


def test_a_forward_that_is_replaced_in_one_of_two_checkpoints_is_refused(host, loaded):
    model, _, rl_alone = loaded
    for guided in (
        with_another_forward(guide(host, model, rl_alone, 2.0)),
        guide(host, with_another_forward(model), with_another_forward(rl_alone), 2.0),
    ):
        with pytest.raises(ValueError, match="replaces forward in the base while it runs"):
            Sampling(steps=2).run(host, guided)


# Modules between others


class Between(nn.Module):
    def forward(self, context, x, **kwargs):
        return context, x * 1.1


def with_a_block_between(model):
    """Injects a block before the others, which get other names by it; AnimateDiff puts its modules between so."""
    clone, between = model.clone(), Between()
    injection = import_module("comfy.model_patcher").PatcherInjection(
        inject=lambda patcher: patcher.model.diffusion_model.joint_blocks.insert(0, between),
        eject=lambda patcher: patcher.model.diffusion_model.joint_blocks.__delitem__(0),
    )
    clone.set_injections("between", [injection])
    return clone


def test_a_module_between_others_moves_no_terms(host, loaded, batching):
    """It stays in the network after a run: the next one, and the next RL model, find it there."""
    model, rl_model, rl_alone = loaded
    settings = Sampling(steps=2)
    without = settings.run(host, guide(host, model, rl_model))
    between = with_a_block_between(model)
    expected = settings.run(host, two_models(host, between, with_a_block_between(rl_alone), 2.0))
    guided = with_a_block_between(budgeted(host, guide(host, model, rl_model, 2.0), batching))
    for _ in range(2):
        assert largest(settings.run(host, guided), expected) < 5e-5 * max(1.0, rms(expected))
    other = rl_model.clone()
    other.patches_uuid = uuid.uuid4()
    assert torch.equal(settings.run(host, guide(host, model, other)), without)
    assert largest(expected, without) > 1e-3
