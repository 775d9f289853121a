"""How two models are wired, and what nodes after RLG put on them: right for both, told, or refused in plain words."""

from __future__ import annotations

import copy
import logging
from contextlib import contextmanager

import pytest
import torch

from support import tiny
from support.guiding import guide, run_node, stock_node
from support.sampling import Sampling, unet_sampling
from support.tensors import largest, random, rms

STEPS = Sampling(steps=3)


@pytest.fixture(scope="module")
def checkpoints(host):
    """A base and an RL model of the SD1.5 layout with weights of their own."""
    weights = tiny.unet_weights(host)
    changed = {k: v + (random(*v.shape, seed=3, size=0.02) if "attn" in k else 0) for k, v in weights.items()}
    return tiny.load_weights(host, weights), tiny.load_weights(host, changed)


@pytest.fixture(scope="module")
def sd3(host):
    return tiny.sd3_pair(host)


@pytest.fixture
def said(host, monkeypatch):
    """What Reinforcement Learning Guidance says of its wires: the same in the log and on the node."""
    words = []
    node = host.classes["RLGApply"]
    execute = node.execute

    def listened(*values, **inputs):
        with log_of(host) as logged:
            output = execute(*values, **inputs)
        assert output.ui.as_dict() == {"text": ("".join(logged).removeprefix("RLG: "),)}
        words.extend(logged)
        return output

    monkeypatch.setattr(node, "execute", listened)
    return words


@contextmanager
def log_of(host):
    """What the node logs."""
    logged = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    log = host.module("nodes.apply").log
    log.addHandler(handler)
    try:
        yield logged
    finally:
        log.removeHandler(handler)


# Nodes after RLG on two checkpoints


SAMPLING_NODES = {
    "ModelSamplingDiscrete": {"sampling": "v_prediction", "zsnr": False},
    "ModelSamplingContinuousV": {"sampling": "v_prediction", "sigma_max": 100.0, "sigma_min": 0.05},
    "ModelSamplingContinuousEDM": {"sampling": "edm", "sigma_max": 100.0, "sigma_min": 0.05},
    "RescaleCFG": {"multiplier": 0.7},
}


@pytest.mark.parametrize("name", SAMPLING_NODES)
def test_a_sampling_node_after_rlg_is_on_both_checkpoints(host, checkpoints, name):
    base, rl = checkpoints
    settings = unet_sampling(steps=3)

    def put_on(model):
        return stock_node(host, name, model=model, **SAMPLING_NODES[name])

    for scale in (0.0, 1.0, 1.7):
        found = settings.run(host, put_on(guide(host, base, rl, scale)))
        expected = settings.run(host, guide(host, put_on(base), put_on(rl), scale))
        assert largest(found, expected) < 1e-4 * max(1.0, rms(expected)), scale
    alone = settings.run(host, put_on(rl))
    assert largest(settings.run(host, put_on(guide(host, base, rl, 1.0))), alone) < 1e-3 * rms(alone)


def test_a_run_leaves_the_models_of_the_graph_alone(host, checkpoints):
    base, rl = checkpoints
    guided = guide(host, base, rl, 2.0)
    before = guided.get_additional_models_with_key("rlg")
    patched = stock_node(host, "ModelSamplingDiscrete", model=guided, sampling="v_prediction", zsnr=False)
    unet_sampling(steps=1).run(host, patched)
    assert patched.get_additional_models_with_key("rlg")[0].object_patches == before[0].object_patches == {}


def test_an_object_that_belongs_to_one_network_is_refused_on_two_checkpoints(host, checkpoints):
    base, rl = checkpoints
    guided = guide(host, base, rl, 2.0)
    guided.add_object_patch("diffusion_model.out", base.model.diffusion_model.out)
    with pytest.raises(ValueError, match=r"replaces diffusion_model\.out in the base"):
        unet_sampling(steps=1).run(host, guided)


def test_a_lora_in_bypass_mode_after_rlg_is_refused_on_two_checkpoints(host, checkpoints):
    base, rl = checkpoints
    guided = guide(host, base, rl, 2.0)
    extension = host.comfy.patcher_extension
    injection = extension.PatcherInjection(inject=lambda patcher: None, eject=lambda patcher: None)
    guided.set_injections("bypass_lora", [injection])
    with pytest.raises(ValueError, match=r"injects modules \(bypass_lora\)"):
        unet_sampling(steps=1).run(host, guided)


# Predictions of another kind


def test_a_prediction_type_on_one_side_is_refused(host, checkpoints):
    base, _ = checkpoints
    rl = tiny.with_lora(host, base, unet_lora(base))
    for sampling in ("v_prediction", "x0"):
        other = stock_node(host, "ModelSamplingDiscrete", model=rl, sampling=sampling, zsnr=False)
        with pytest.raises(ValueError, match="not their model_sampling: kind"):
            guide(host, base, other, 2.0)
    first, second = (
        stock_node(host, "ModelSamplingContinuousEDM", model=m, sampling=s, sigma_max=100.0, sigma_min=0.05)
        for m, s in ((base, "edm"), (rl, "edm_playground_v2.5"))
    )
    with pytest.raises(ValueError, match="not their latent_format"):
        guide(host, first, second, 2.0)
    shifted = [
        stock_node(host, "ModelSamplingDiscrete", model=m, sampling="eps", zsnr=z)
        for m, z in ((base, False), (rl, True))
    ]
    with pytest.raises(ValueError, match="a table of"):
        guide(host, *shifted, 2.0)


def test_the_same_prediction_type_on_both_sides_is_one(host, checkpoints):
    base, _ = checkpoints
    both = [
        stock_node(host, "ModelSamplingDiscrete", model=m, sampling="v_prediction", zsnr=False)
        for m in (base, tiny.with_lora(host, base, unet_lora(base)))
    ]
    settings = unet_sampling(steps=2)
    expected = settings.run(host, both[1])
    assert largest(settings.run(host, guide(host, *both, 1.0)), expected) < 1e-4 * rms(expected)


def unet_lora(model):
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    width = model.model.get_submodule(key).weight.shape
    return {
        f"{key}.lora_up.weight": random(width[0], 4, seed=1, size=0.1),
        f"{key}.lora_down.weight": random(4, width[1], seed=2, size=0.3),
    }


# Wires


def test_identical_models_are_told(host, sd3, said):
    assert guide(host, sd3[0], sd3[0]) is sd3[0]
    assert len(said) == 1 and "same model" in said[0]


def test_swapped_inputs_are_told_and_guide_away(host, sd3, said):
    model, rl_model = sd3
    swapped = guide(host, rl_model, model, 2.0)
    assert len(said) == 1 and "swapped" in said[0]
    away = guide(host, model, rl_model, -1.0)  # rl + 2 (base - rl) = base - (rl - base)
    assert largest(STEPS.run(host, swapped), STEPS.run(host, away)) < 5e-5


def test_a_lora_on_the_base_alone_is_told(host, sd3, said):
    model, rl_model = sd3
    style = {
        "diffusion_model.joint_blocks.0.x_block.mlp.fc1.lora_up.weight": random(512, 2, size=0.3),
        "diffusion_model.joint_blocks.0.x_block.mlp.fc1.lora_down.weight": random(2, 128, seed=1, size=0.3),
    }
    guide(host, tiny.with_lora(host, model, style), rl_model, 2.0)
    assert len(said) == 1 and "subtracted above" in said[0] and "1 weight changes" in said[0]


def test_usual_wires_say_nothing(host, sd3, checkpoints, said):
    guide(host, *sd3)
    guide(host, *checkpoints)
    model, rl_model = sd3
    patched = stock_node(host, "RescaleCFG", model=model, multiplier=0.7)
    guide(host, patched, rl_model)
    guide(host, patched, stock_node(host, "RescaleCFG", model=rl_model, multiplier=0.7))
    assert said == []


@pytest.mark.parametrize("pair", ["sd3", "checkpoints"])
def test_what_rl_model_alone_carries_beside_weights_is_told(host, pair, said, request):
    model, rl_model = request.getfixturevalue(pair)
    guide(host, model, stock_node(host, "RescaleCFG", model=rl_model, multiplier=0.7))
    assert len(said) == 1 and "(sampler_cfg_function): it is without effect" in said[0]
    wrapped, patched = rl_model.clone(), rl_model.clone()
    wrapped.add_wrapper_with_key(host.comfy.patcher_extension.WrappersMP.APPLY_MODEL, "mine", lambda *values: None)
    guide(host, model, wrapped)
    assert "(apply_model mine)" in said[1]
    patched.add_object_patch("extra_conds", lambda **values: {})
    guide(host, model, patched)
    assert len(said) == (3 if pair == "sd3" else 2), "another checkpoint runs with its own objects"


# Nodes that drop RLG


def made_anew(host, model):
    """A model of the same weights, patches and options, without what hosts keep beside them, as AnimateDiff Unload."""
    anew = host.comfy.model_patcher.ModelPatcher(model.model, model.load_device, model.offload_device)
    anew.patches = {key: list(patches) for key, patches in model.patches.items()}
    anew.object_patches, anew.model_options = dict(model.object_patches), copy.deepcopy(model.model_options)
    return anew.clone()


def test_a_node_that_makes_the_model_anew_is_refused_after_rlg_and_works_before(host, sd3):
    base, rl_model = sd3
    guided = guide(host, base, rl_model)
    stacked = run_node(host, "RLGBudget", guide(host, guided, rl_model), "exact", 1, 0.0, "auto")[0]
    for model in (guided, stacked):
        with pytest.raises(host.module("rlg_core.errors").RunError, match=r"dropped RLG .* Put that node before"):
            STEPS.run(host, made_anew(host, model))
        with pytest.raises(host.module("rlg_core.errors").RunError, match="dropped RLG"):
            guide(host, made_anew(host, model), rl_model)
    expected = STEPS.run(host, guided)
    anew = made_anew(host, base)
    assert torch.equal(STEPS.run(host, guide(host, anew, tiny.with_lora(host, anew, tiny.sd3_lora()))), expected)
    assert torch.equal(STEPS.run(host, anew), STEPS.run(host, base))


def test_the_guard_of_a_dropped_rlg_leaves_clones_alone(host, sd3):
    """It is there once, however many nodes of RLG there are, and never on the models that were guided."""
    base, rl_model = sd3
    guided = guide(host, base, rl_model)
    stacked = guide(host, guided, rl_model)
    kind = host.comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    guards = [model.model_options["transformer_options"]["wrappers"][kind] for model in (guided, stacked)]
    assert guards[0] == guards[1] and all(len(functions) == 1 for functions in guards[0].values())
    assert not any("wrappers" in model.model_options["transformer_options"] for model in sd3)
    later = guided.clone().clone()
    later.add_wrapper_with_key(kind, "other", lambda executor, *values, **inputs: executor(*values, **inputs))
    assert torch.equal(STEPS.run(host, later), STEPS.run(host, guided))


# Nodes that copy the weights


def louder(model):
    """A copy of a model, weights and all, with larger weights, as CheckpointPerturbWeights of KJNodes makes one."""
    try:
        copy.deepcopy(model.model.model_config)
    except TypeError:
        pytest.skip("this host's models cannot be copied")
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.model.diffusion_model.parameters():
            parameter.mul_(1.05)
    return copied


def test_a_copy_with_other_weights_keeps_what_an_adapter_changes(host, sd3):
    base = louder(sd3[0])
    expected = STEPS.run(host, guide(host, base, tiny.with_lora(host, base, tiny.sd3_lora())))
    assert largest(STEPS.run(host, louder(guide(host, *sd3))), expected) < 1e-5


def test_a_copy_with_other_weights_is_refused_on_two_checkpoints(host, checkpoints):
    louder(checkpoints[0])
    with pytest.raises(host.module("rlg_core.errors").PairError, match="copies the base with its weights"):
        louder(guide(host, *checkpoints))


# Attention multipliers


def multiplied(host, model, factor=1.0):
    node = "UNetSelfAttentionMultiply"
    return stock_node(host, node, model=model, q=factor, k=1.0, v=1.0, out=factor)


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_attention_multipliers_before_and_after(host, checkpoints, factor):
    """Their patches hold no tensor, and at 1 change nothing; elsewhere they multiply the RL model's change too."""
    base, _ = checkpoints
    rl = tiny.with_lora(host, base, unet_lora(base))
    settings = unet_sampling(steps=2)
    after = settings.run(host, multiplied(host, guide(host, base, rl, 2.0), factor))
    before = settings.run(host, guide(host, multiplied(host, base, factor), multiplied(host, rl, factor), 2.0))
    assert largest(after, before) < 1e-4 * rms(before)
    plain = settings.run(host, guide(host, base, rl, 2.0))
    assert (largest(after, plain) < 1e-4 * rms(plain)) == (factor == 1.0)


def test_the_dual_model_guider_runs_one_model_at_cfg_1(host, sd3):
    if "DualModelGuider" not in host.classes:
        pytest.skip("this host has no DualModelGuider")
    positive, negative = STEPS.positive, STEPS.negative
    guided = guide(host, *sd3)
    inputs = {"positive": positive, "negative": negative, "cfg": 1.0, "model_negative": sd3[0]}
    dual = run_node(host, "DualModelGuider", model=guided, **inputs)[0]
    euler, sigmas = host.comfy.samplers.sampler_object("euler"), STEPS.sigmas(host, guided)
    found = dual.sample(STEPS.noise(), torch.zeros(STEPS.shape), euler, sigmas, seed=STEPS.seed, disable_pbar=True)
    assert torch.equal(found, Sampling(steps=3, cfg=1.0).run(host, guided))
