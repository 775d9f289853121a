"""Layers of the RL model that other nodes compute by themselves: as two separate models, or an error that says why.

Before sampling, with the weights that are then in memory, or in the place of a layer's own forward.
"""

from __future__ import annotations

import logging
from types import MethodType

import pytest
import torch
from torch.nn import functional

from support import tiny
from support.guiding import guide, run_node
from support.oracle import two_models
from support.sampling import Sampling, conditioning, unet_sampling, wan_sampling
from support.tensors import largest, random, rms

pytestmark = pytest.mark.usefixtures("inference_mode")
MLP = "diffusion_model.joint_blocks.0.x_block.mlp"


def triple(host, weights, layers):
    """A base, an RL model that changes `layers` of it beside the same weights, and one with weights of its own."""
    model, other = (tiny.load_weights(host, dict(weights)) for _ in "ab")
    lora = lora_on(weights, layers)
    return model, tiny.with_lora(host, model, lora), tiny.with_lora(host, other, lora)


def lora_on(weights, layers):
    """A LoRA on the linear layers whose names have one of `layers` in them."""
    lora = {}
    for key, weight in weights.items():
        name = key.removeprefix("model.diffusion_model.").removesuffix(".weight")
        if key.endswith(".weight") and weight.ndim == 2 and any(part in name for part in layers):
            lora[f"diffusion_model.{name}.lora_down.weight"] = random(2, weight.shape[1], seed=1, size=0.1)
            lora[f"diffusion_model.{name}.lora_up.weight"] = random(weight.shape[0], 2, seed=2, size=0.1)
    return lora


def agree(host, models, put_on, settings):
    model, rl_model, rl_alone = models
    expected = settings.run(host, two_models(host, put_on(model), put_on(rl_alone), 2.0))
    found = settings.run(host, put_on(guide(host, model, rl_model, 2.0)))
    assert largest(found, expected) < 5e-5 * max(1.0, rms(expected))
    assert largest(found, settings.run(host, put_on(model))) > 1e-3


def refused(host, models, put_on, settings, match):
    model, rl_model, _ = models
    for guided in (put_on(guide(host, model, rl_model, 2.0)), guide(host, put_on(model), put_on(rl_model), 2.0)):
        with pytest.raises(host.module("rlg_core.errors").RunError, match=match):
            settings.run(host, guided)


# Before sampling


class NegativePrompt:
    """Normalised attention guidance with keys and values that it makes when it is put on a model."""

    def __init__(self, attention, prompt):
        self.keys, self.values = attention.to_k(prompt), attention.to_v(prompt)
        self.heads = attention.heads

    def __call__(self, q, k, v, extra_options):
        from comfy.ldm.modules.attention import optimized_attention

        negative = (part.expand(q.shape[0], -1, -1) for part in (self.keys, self.values))
        return 1.5 * optimized_attention(q, k, v, self.heads) - 0.5 * optimized_attention(q, *negative, self.heads)


def with_negative_prompt(model):
    clone, prompt = model.clone(), conditioning(5, 768)[0][0]
    network = clone.model.diffusion_model
    for place, number, block in (("input", 1, network.input_blocks[1]), ("middle", 0, network.middle_block)):
        attention = next(m for name, m in block.named_modules() if name.endswith("attn2"))
        clone.set_model_attn2_replace(NegativePrompt(attention, prompt), place, number)
    return clone


def test_keys_and_values_of_before_sampling_are_refused(host):
    models = triple(host, tiny.unet_weights(host), [".to_q", ".to_k"])
    refused(host, models, with_negative_prompt, unet_sampling(steps=1), "attn2.to_k made before sampling began")


def test_keys_of_before_sampling_are_refused_for_another_copy_of_the_base_with_a_lora(host):
    """Whose weights are the base's until the host loads it."""
    model, _, rl_alone = triple(host, tiny.unet_weights(host), [".to_q", ".to_k"])
    guided = guide(host, with_negative_prompt(model), rl_alone, 2.0)
    with pytest.raises(host.module("rlg_core.errors").RunError, match="made before sampling began"):
        unet_sampling(steps=1).run(host, guided)


def test_keys_and_values_that_the_rl_model_does_not_change_are_right(host):
    models = triple(host, tiny.unet_weights(host), [".to_q", ".to_out"])
    agree(host, models, with_negative_prompt, unet_sampling(steps=2))


def with_embedded_prompt(model):
    """The prompt is embedded when the node is put on a model, and each cross-attention gets it in a run."""
    clone, network = model.clone(), model.model.diffusion_model
    prompt = network.text_embedding(conditioning(5, network.text_dim)[0][0])
    for place, block in enumerate(network.blocks):
        plain = MethodType(type(block.cross_attn).forward, block.cross_attn)

        def forward(self, x, context, *args, plain=plain, **kwargs):
            negative = prompt.expand(x.shape[0], -1, -1)
            return 1.5 * plain(x, context, *args, **kwargs) - 0.5 * plain(x, negative, *args, **kwargs)

        clone.add_object_patch(f"diffusion_model.blocks.{place}.cross_attn.forward", MethodType(forward, block))
    return clone


def test_a_prompt_embedded_before_sampling_is_refused_where_the_rl_model_embeds_it_otherwise(host):
    weights, settings = tiny.wan_weights(host), wan_sampling(steps=1)
    refused(
        host, triple(host, weights, ["text_embedding"]), with_embedded_prompt, settings, "text_embedding made before"
    )
    agree(host, triple(host, weights, ["attn"]), with_embedded_prompt, settings)


def test_keys_of_before_sampling_are_refused_also_after_an_adapter_that_leaves_them(host):
    """One node, which the host keeps, and two adapters after it."""
    weights = tiny.unet_weights(host)
    model = with_negative_prompt(tiny.load_weights(host, dict(weights)))
    for layers, is_refused in (([".to_q"], False), ([".to_k"], True), ([".to_q"], False)):
        guided = guide(host, model, tiny.with_lora(host, model, lora_on(weights, layers)), 2.0)
        if is_refused:
            with pytest.raises(host.module("rlg_core.errors").RunError, match="made before sampling began"):
                unet_sampling(steps=1).run(host, guided)
        else:
            unet_sampling(steps=1).run(host, guided)


class Masked:
    """Attention in one place of the picture, by a mask as wide as keys are."""

    def __init__(self, width):
        self.mask = torch.ones(1, 8, width)
        self.frequencies = torch.ones(1, 8, width, dtype=torch.complex64)

    def __call__(self, q, k, v, extra_options):
        from comfy.ldm.modules.attention import optimized_attention

        return optimized_attention(q, k, v, extra_options["n_heads"]) * self.mask.mean()


def test_a_mask_is_not_taken_for_keys(host):
    models = triple(host, tiny.unet_weights(host), [".to_k"])

    def put_on(model):
        clone = model.clone()
        clone.set_model_attn2_replace(Masked(320), "input", 1)
        return clone

    model, rl_model, rl_alone = models
    settings = unet_sampling(steps=1)
    expected = settings.run(host, two_models(host, put_on(model), put_on(rl_alone), 2.0))
    found = settings.run(host, put_on(guide(host, model, rl_model, 2.0)))
    assert largest(found, expected) < 5e-5 * max(1.0, rms(expected))


class Recorder:
    """Remembers its keys for the next call, as caches do."""

    keys = None

    def __call__(self, q, k, v, extra_options):
        from comfy.ldm.modules.attention import optimized_attention

        self.keys = k
        return optimized_attention(q, k, v, extra_options["n_heads"])


def test_what_a_run_left_in_a_node_is_not_taken_for_it(host):
    model, rl_model, _ = triple(host, tiny.unet_weights(host), [".to_k"])
    guided = guide(host, model, rl_model, 2.0)
    guided.set_model_attn2_replace(Recorder(), "input", 1)
    first, second = (unet_sampling(steps=2).run(host, guided) for _ in "ab")
    assert largest(first, second) < 1e-5 * rms(first)


# In the place of a layer's forward


@pytest.fixture(scope="module")
def sd3(host):
    return triple(host, tiny.weights_of(tiny.load(host, tiny.sd3_transformer())), ["x_block.mlp", "attn.proj"])


def with_mlp(model, function):
    """A node that puts `function(mlp, x)` in the place of one."""
    clone, mlp = model.clone(), model.get_model_object(MLP)
    clone.add_object_patch(f"{MLP}.forward", MethodType(function, mlp))
    return clone


def test_a_layer_computed_from_its_weight_is_refused(host, sd3):
    def forward(mlp, x):
        return mlp.fc2(mlp.act(functional.linear(x, mlp.fc1.weight, mlp.fc1.bias)))

    refused(host, sd3, lambda m: with_mlp(m, forward), Sampling(steps=1), r"something reads their weights.*mlp\.fc1")


def test_a_layer_that_has_nothing_to_do_is_told_of_once(host, sd3, caplog):
    with caplog.at_level(logging.WARNING):
        agree(host, sd3, lambda model: with_mlp(model, lambda mlp, x: 0.1 * x), Sampling(steps=3))
    told = [record.getMessage() for record in caplog.records if "do not run in this graph" in record.getMessage()]
    assert len(told) == 1 and f"first {MLP}.fc1, {MLP}.fc2" in told[0]
    assert not any(type(module._parameters) is not dict for module in sd3[0].model.modules())


class Cached:
    """Mixes the first block's output with what it was in the first call, as caches do that keep a reference."""

    kept = None

    def __call__(self, args, extra):
        out = extra["original_block"](args)
        if self.kept is None:
            self.kept = out["img"].clone()
        return {**out, "img": 0.7 * out["img"] + 0.3 * self.kept}


@pytest.mark.parametrize("batching", ["auto", "sequential"])
def test_a_cache_beside_a_layer_that_has_nothing_to_do(host, sd3, batching):
    """The pass in which the layer is found runs twice; what the cache kept in the first is not older."""

    def put_on(model):
        clone = with_mlp(model, lambda mlp, x: 0.1 * x)
        clone.set_model_patch_replace(Cached(), "dit", "double_block", 0)
        return clone

    model, rl_model, rl_alone = sd3
    settings = Sampling(steps=4)
    expected = settings.run(host, two_models(host, put_on(model), put_on(rl_alone), 2.0))
    guided = run_node(host, "RLGBudget", guide(host, model, rl_model, 2.0), "exact", 1, 0.0, batching)[0]
    assert largest(settings.run(host, put_on(guided)), expected) < 5e-5 * max(1.0, rms(expected))


# In memory


def test_a_guider_that_swaps_the_weights_in_memory_is_refused(host, sd3):
    """Its second model is a LoRA on the same weights, as AutoGuidance takes it; it calls both with the same options."""

    class TwoLoras(host.comfy.samplers.CFGGuider):
        def predict_noise(self, *args, **kwargs):
            first = super().predict_noise(*args, **kwargs)
            self.model_patcher.unpatch_model()
            self.second.patch_model()
            second = super().predict_noise(*args, **kwargs)
            self.second.unpatch_model()
            self.model_patcher.patch_model()
            return 2 * first - second

    model, rl_model, _ = sd3
    guider, settings = TwoLoras(guide(host, model, rl_model, 2.0)), Sampling(steps=1)
    guider.second = rl_model.clone()
    guider.set_conds(settings.positive, settings.negative)
    guider.set_cfg(1.0)
    with pytest.raises(host.module("rlg_core.errors").RunError, match="changed the weights in memory"):
        settings.run_with(host, guider)
