"""What is right alone and shows only in combination: two nodes, two experts, a prompt with something on it."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch

from support import tiny
from support.every_node import small_models
from support.guiding import guide, run_node, stock_node
from support.layouts import lora_of
from support.lock_step import two_runs
from support.oracle import own_options, two_models
from support.sampling import conditioning
from support.tensors import largest, random, rms


@pytest.fixture(scope="module")
def sd3(host):
    return small_models(host, "SD3")


def other_lora(models, seed=21):
    return lora_of(models.model.model.diffusion_model, seed)


def agree(found, expected, base):
    """Equal but for rounding, measured in what distinguishes the expected latent from the base's."""
    effect = rms(expected - base)
    assert effect > 1e-2 * rms(base)
    return largest(found, expected) < 1e-3 * effect


# Modules that other nodes inject


def bypassed(host, model, lora):
    if not hasattr(host.comfy.sd, "load_bypass_lora_for_models"):
        pytest.skip("this host has no bypass mode")
    return host.comfy.sd.load_bypass_lora_for_models(model, None, dict(lora), 1.0, 0.0)[0]


def test_two_loras_in_bypass_mode_are_not_one(host, sd3):
    """Both are injected under one name; that of the RL model was taken for the base's, and nothing was guided."""
    style, rl_model = (bypassed(host, sd3.model, lora) for lora in (sd3.style, other_lora(sd3)))
    with pytest.raises(ValueError, match="differ by injected modules"):
        guide(host, style, rl_model, 2.0)


def test_one_lora_in_bypass_mode_loaded_twice_is_one(host, sd3):
    base, rl_model = (bypassed(host, model, sd3.style) for model in (sd3.model, sd3.rl_model))
    alone = bypassed(host, sd3.rl_alone, sd3.style)
    settings = sd3.sampling()
    found, expected, plain = (settings.run(host, m) for m in (guide(host, base, rl_model, 1.0), alone, base))
    assert agree(found, expected, plain)


def test_one_lora_in_bypass_mode_stays_one_where_the_host_has_cast_it(host, sd3):
    half = {name: value.half() for name, value in sd3.style.items()}
    base, rl_model = (bypassed(host, model, half) for model in (sd3.model, sd3.rl_model))
    settings = sd3.sampling()
    first = settings.run(host, guide(host, base, rl_model, 2.0))
    assert torch.equal(settings.run(host, guide(host, base, rl_model, 2.0)), first)


def test_a_lora_in_bypass_mode_on_one_of_two_checkpoints_is_told(host, sd3, caplog):
    guide(host, bypassed(host, sd3.model, sd3.style), sd3.checkpoint, 2.0)
    assert "differ by injected modules (bypass_lora)" in caplog.text


def test_a_lora_in_bypass_mode_in_place_of_another_is_refused_on_two_checkpoints(host, sd3):
    base, rl_model = (bypassed(host, model, sd3.style) for model in (sd3.model, sd3.checkpoint))
    after = bypassed(host, guide(host, base, rl_model, 2.0), other_lora(sd3))
    with pytest.raises(ValueError, match=r"injects modules \(bypass_lora\)"):
        sd3.sampling().run(host, after)


# Options that a node copies


@pytest.mark.parametrize("rl_cfg", [0.0, 3.0])
@pytest.mark.parametrize("pair", ["rl_model", "checkpoint"])
def test_a_node_that_copies_the_options_while_it_samples(host, sd3, pair, rl_cfg):
    """Some copy them at every step, to change them: what RLG has put into them is not copied with all it holds."""
    model = sd3.model.clone()
    model.set_model_sampler_post_cfg_function(
        lambda args: args["denoised"] * bool(copy.deepcopy(args["model_options"]))
    )
    branch = run_node(host, "RLGBranch", rl_cfg, 1.0, 1.0)[0]
    settings, rl_model = sd3.sampling(), getattr(sd3, pair)
    found, expected = (settings.run(host, guide(host, m, rl_model, 2.0, branch=branch)) for m in (model, sd3.model))
    assert torch.equal(found, expected)


# Two RL models


def test_one_checkpoint_with_and_without_a_lora_is_not_two_rl_models(host, sd3):
    """They share weights in memory, which are those of one of the two."""
    second = tiny.with_lora(host, sd3.checkpoint, sd3.style)
    for first, then in ((sd3.checkpoint, second), (second, sd3.checkpoint)):
        guided = guide(host, sd3.model, first, 1.5)
        with pytest.raises(ValueError, match="one checkpoint with different nodes"):
            guide(host, guided, then, 0.5)


def test_one_checkpoint_twice_is_one_at_both_scales(host, sd3):
    settings, again = sd3.sampling(), sd3.checkpoint.clone()
    twice = guide(host, guide(host, sd3.model, sd3.checkpoint, 1.5), again, 0.7)
    found, expected = (settings.run(host, m) for m in (twice, guide(host, sd3.model, sd3.checkpoint, 2.2)))
    assert agree(found, expected, settings.run(host, sd3.model))


@pytest.mark.parametrize(("positive", "negative"), [(0.0, 1.0), (1.0, 0.0)])
def test_an_own_cfg_beside_an_expert_for_one_prompt(host, sd3, positive, negative):
    """One Euler step goes all the way to the prediction, in which the two experts' parts add up."""
    own_cfg, by_prompt = (run_node(host, "RLGBranch", *v)[0] for v in ((3.0, 1.0, 1.0), (0.0, positive, negative)))
    other = tiny.with_lora(host, sd3.model, other_lora(sd3))
    one_step, with_3 = sd3.sampling(steps=1), sd3.sampling(steps=1, cfg=3.0)
    both = guide(host, guide(host, sd3.model, sd3.rl_model, 1.5, branch=own_cfg), other, 1.5, branch=by_prompt)
    base = one_step.run(host, sd3.model)
    second = one_step.run(host, guide(host, sd3.model, other, 1.5, branch=by_prompt))
    expected = second + 1.5 * (with_3.run(host, sd3.rl_model) - base)
    assert not agree(second, expected, base)
    assert agree(one_step.run(host, both), expected, base)


def test_one_merge_on_both_models_is_no_difference(host, sd3, caplog):
    """The host makes functions anew for each merge; taken for another one, the base's would be told of as lost."""
    base, rl_model = (
        stock_node(host, "ModelMergeSimple", model1=model, model2=sd3.third, ratio=0.6)
        for model in (sd3.model, sd3.rl_model)
    )
    guide(host, base, rl_model, 2.0)
    guide(host, base, sd3.model, 2.0)
    assert len(caplog.messages) == 1 and "without" in caplog.messages[0], "of the second alone"


def test_what_computes_in_another_dtype_leaves_the_terms_of_others_alone(host, sd3):
    """They were built in the dtype of the clone that was in memory, and kept for all."""

    def in_bfloat16(model):
        return stock_node(host, "ModelComputeDtype", model=model, dtype="bf16")

    settings, rl_model = sd3.sampling(), tiny.with_lora(host, sd3.model, tiny.sd3_lora())
    settings.run(host, in_bfloat16(sd3.model))
    guide(host, in_bfloat16(sd3.model), rl_model, 1.0)
    found, expected, plain = (
        settings.run(host, m) for m in (guide(host, sd3.model, rl_model, 1.0), sd3.rl_alone, sd3.model)
    )
    assert agree(found, expected, plain)


# CFG of one's own


def after_cfg(host, model, rl_model, scale, rl_cfg):
    """`model` with `base + scale (rl - base)` after CFG, the RL model's by a guider and nodes of its own."""
    extension, own = host.comfy.patcher_extension, host.comfy.samplers.CFGGuider(rl_model)
    own.set_cfg(rl_cfg)

    def combine(executor, x, timestep, options, seed):
        base = executor(x, timestep, options, seed)
        rl_model.pre_run()
        own.conds, own.inner_model = executor.class_obj.conds, rl_model.model
        return base + scale * (own.predict_noise(x, timestep, own_options(host, rl_model, options), seed) - base)

    clone = model.clone()
    clone.add_wrapper_with_key(extension.WrappersMP.PREDICT_NOISE, "reference", combine)
    clone.set_additional_models("reference", [rl_model])
    return clone


def test_what_a_node_averages_around_cfg_is_each_models_own(host, sd3):
    """APG's momentum: over the steps of the base, or over those of the RL model at its own CFG."""

    def with_momentum(model):
        return stock_node(host, "APG", model=model, eta=0.5, norm_threshold=2.0, momentum=0.5)

    settings, branch = sd3.sampling(steps=3), run_node(host, "RLGBranch", 3.0, 1.0, 1.0)[0]
    guided = with_momentum(guide(host, sd3.model, sd3.rl_model, 2.0, branch=branch))
    base = with_momentum(sd3.model)
    reference = after_cfg(host, base, with_momentum(sd3.rl_alone), 2.0, 3.0)
    expected, plain = settings.run(host, reference), settings.run(host, base)
    for _ in range(2):
        assert agree(settings.run(host, guided), expected, plain)


def with_easy_cache(host, model):
    given = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 0.95, "verbose": False}
    return stock_node(host, "EasyCache", model=model, **given)


@pytest.mark.parametrize("pair", ["rl_model", "checkpoint"])
def test_a_cache_skips_steps_of_all_models(host, pair):
    """EasyCache asks the first prompt that it has seen, and that was the RL model's: the base never skipped a step."""
    models = small_models(host, "SD1.5")
    settings = models.sampling(steps=5, scheduler="normal")
    branch = run_node(host, "RLGBranch", settings.cfg, 1.0, 1.0)[0]
    guided = guide(host, models.model, getattr(models, pair), 2.0, branch=branch)
    base, rl_model = (with_easy_cache(host, model) for model in (models.model, models.rl_alone))
    expected = two_runs(host, base, rl_model, 2.0, lambda model: settings.run(host, model))
    plain = settings.run(host, base)
    assert agree(settings.run(host, with_easy_cache(host, guided)), expected, plain)
    assert not agree(settings.run(host, guided), expected, plain), "no step was skipped"


@pytest.mark.parametrize("pair", ["rl_model", "checkpoint"])
def test_a_cache_skips_no_model_alone_where_another_joins_later(host, pair):
    """The base, which was there first, was skipped, and the RL model was not: as in one pass, it is all or none."""
    models = small_models(host, "SD1.5")
    settings = models.sampling(steps=8, scheduler="normal")

    def run(rl_model, passes):
        guided = guide(host, models.model, rl_model, 2.0, start_percent=0.35, outside_scale=0.0)
        budget = run_node(host, "RLGBudget", guided, "exact", 1, 0.0, passes)[0]
        return settings.run(host, with_easy_cache(host, budget))

    base = settings.run(host, with_easy_cache(host, models.model))
    assert agree(run(getattr(models, pair), "sequential"), run(models.rl_model, "batched"), base)


@pytest.mark.parametrize("how", ["rl_cfg", "segmented"])
def test_the_other_version_of_euler_with_cfg_plus_plus_is_one_too(host, sd3, how):
    """It reads the unconditional prediction of the latest call, which may be another model's."""
    sampler = stock_node(host, "SamplerEulerCFGpp", version="alternative")
    if how == "rl_cfg":
        guided = guide(host, sd3.model, sd3.rl_model, 2.0, branch=run_node(host, "RLGBranch", 3.0, 1.0, 1.0)[0])
    else:
        guided = run_node(host, "RLGBudget", guide(host, sd3.model, sd3.rl_model, 2.0), "segmented", 1, 0.0, "auto")[0]
    with pytest.raises(ValueError, match="reads one unconditional prediction"):
        sd3.sampling(sampler=sampler).run(host, guided)


# Prompts


def test_a_patch_that_mixes_rows_of_some_prompts_only(host):
    """NAG mixes rows where the negative prompt is among them: not in the first call of the same shape."""
    models = small_models(host, "FLUX")

    def between(start, end, seed):
        return host.classes["ConditioningSetTimestepRange"]().set_range(models.conditioning(seed), start, end)[0]

    def with_nag(model):
        return stock_node(host, "NAGuidance", model=model, nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5)

    positive = [*models.conditioning(11), *between(0.0, 0.5, 13)]
    settings = models.sampling(steps=4, positive=positive, negative=between(0.55, 1.0, 12))
    base, rl_model = with_nag(models.model), with_nag(models.rl_alone)
    found = settings.run(host, with_nag(guide(host, models.model, models.rl_model, 2.0)))
    assert agree(found, settings.run(host, two_models(host, base, rl_model, 2.0)), settings.run(host, base))


def test_a_prompt_of_a_nodes_own_is_neither_positive_nor_negative(host, sd3):
    """It was guided as the positive one."""
    branch = run_node(host, "RLGBranch", 0.0, 0.0, 1.0)[0]
    guided = guide(host, sd3.model, sd3.rl_model, 2.0, branch=branch)
    with_prompt = stock_node(host, "PerpNeg", model=guided, empty_conditioning=sd3.conditioning(13), neg_scale=1.0)
    with pytest.raises(ValueError, match="a prompt of its own"):
        sd3.sampling().run(host, with_prompt)


def hooked(host, models, lora):
    """Settings whose positive prompt has a LoRA on it."""
    ((text, extra),) = models.conditioning(11)
    hooks = host.comfy.hooks.create_hook_lora(dict(lora), 1.0, 0.0)
    return models.sampling(positive=[[text, extra | {"hooks": hooks}]])


def with_dora(lora):
    """The same LoRA, with a norm for each row of the weight."""
    ups = {name: value for name, value in lora.items() if name.endswith("lora_up.weight")}
    return lora | {name.replace("lora_up.weight", "dora_scale"): torch.ones(len(up), 1) for name, up in ups.items()}


def test_a_hook_that_depends_on_the_weight_is_refused_beside_an_adapter(host, sd3):
    """It would see the base's weight under the terms of the RL model; on two checkpoints hooks are refused anyway."""
    guided = guide(host, sd3.model, sd3.rl_model, 2.0)
    with pytest.raises(ValueError, match="by an amount that depends on it"):
        hooked(host, sd3, with_dora(sd3.style)).run(host, guided)


def test_a_hook_that_depends_on_other_weights_is_right(host, sd3):
    changed = {key.rsplit(".", 1)[0] for key in sd3.rl_model.patches}
    lora = {k: v for k, v in with_dora(sd3.style).items() if not any(k.startswith(f"{name}.") for name in changed)}
    assert len(lora) > 3
    settings = hooked(host, sd3, lora)
    found, expected, plain = (
        settings.run(host, m) for m in (guide(host, sd3.model, sd3.rl_model, 1.0), sd3.rl_alone, sd3.model)
    )
    assert agree(found, expected, plain)


def test_a_model_as_a_lora_on_a_prompt_is_right(host, sd3):
    """Its difference is to the weight before any patch, which base and RL model share."""
    weights = {f"diffusion_model.{name}": value for name, value in tiny.weights_of(sd3.third).items()}
    hooks = host.comfy.hooks.create_hook_model_as_lora(weights, None, 0.5, 0.0)
    ((text, extra),) = sd3.conditioning(11)
    settings = sd3.sampling(positive=[[text, extra | {"hooks": hooks}]])
    found, expected, plain = (
        settings.run(host, m) for m in (guide(host, sd3.model, sd3.rl_model, 1.0), sd3.rl_alone, sd3.model)
    )
    assert agree(found, expected, plain)


@pytest.mark.parametrize("changes_connectors", [True, False])
def test_prompts_that_the_network_prepares(host, changes_connectors):
    """LTX-2 with sound puts them through its connectors before sampling, once, with the base's weights."""
    if not hasattr(host.comfy.supported_models, "LTXAV"):
        pytest.skip("this host has no LTX-2 with sound")
    models = small_models(host, "LTXAV")
    network = models.model.model.diffusion_model
    unprocessed = {"unprocessed_ltxav_embeds": True}
    settings = models.sampling(
        positive=[[conditioning(11, 64, None)[0][0], unprocessed]],
        negative=[[conditioning(12, 64, None)[0][0], unprocessed]],
    )
    if changes_connectors:
        style = {name: value / 2 for name, value in lora_of(network).items()}
        base = bypassed(host, models.model, style)
        again = guide(host, base, bypassed(host, models.rl_model, style), 2.0)
        guided = [guide(host, models.model, m, 2.0) for m in (models.rl_model, models.checkpoint, models.rl_alone)]
        for model in (*guided, again, again):
            with pytest.raises(ValueError, match=r"prepares its prompts before it samples.*connector"):
                settings.run(host, model)
        return
    lora = {name: value for name, value in lora_of(network).items() if "connector" not in name}
    rl_model, alone = (tiny.with_lora(host, model, lora) for model in (models.model, models.rl_alone))
    alone.patches = dict(rl_model.patches)
    found, expected, plain = (
        settings.run(host, m) for m in (guide(host, models.model, rl_model, 1.0), alone, models.model)
    )
    assert agree(found, expected, plain)
    base, rl_model = (bypassed(host, model, lora_of(network)) for model in (models.model, rl_model))
    bypass = settings.run(host, guide(host, base, rl_model, 0.0))
    assert torch.equal(settings.run(host, guide(host, base, rl_model, 0.0)), bypass)
    assert largest(bypass, plain) > 1e-3


@pytest.mark.parametrize("layers", ["input_blocks", "output_blocks"])
def test_a_control_lora_made_of_weights_that_the_rl_model_changes_is_refused(host, layers):
    """Its network is made of the base's weights, also for the RL model; what it does not copy may differ."""
    models = small_models(host, "SD1.5")
    network = host.comfy.cldm.cldm.ControlNet(
        **{k: v for k, v in models.model.model.model_config.unet_config.items() if k not in ("out_channels", "dtype")},
        hint_channels=3,
        dtype=torch.float32,
        operations=host.comfy.ops.disable_weight_init,
    )
    own = ("input_hint_block", "zero_convs", "middle_block_out")
    weights = {k: random(*v.shape, size=0.1) for k, v in network.state_dict().items() if k.startswith(own)}

    def run(model):
        control = host.comfy.controlnet.ControlLora(weights)
        apply, image = host.classes["ControlNetApplyAdvanced"](), random(1, 64, 64, 3, seed=1).sigmoid()
        prompts = apply.apply_controlnet(*map(models.conditioning, (11, 12)), control, image, 1.0, 0.0, 1.0)
        return models.sampling(positive=prompts[0], negative=prompts[1]).run(host, model)

    lora = {name: value for name, value in lora_of(models.model.model.diffusion_model).items() if layers in name}
    rl_model, alone = (
        tiny.with_lora(host, m, lora) for m in (models.model, models.load(tiny.weights_of(models.model)))
    )
    if layers == "input_blocks":
        for rl in (rl_model, alone):
            with pytest.raises(ValueError, match=r"Control-LoRA is made of .* first diffusion_model\.input_blocks"):
                run(guide(host, models.model, rl, 2.0))
    else:
        found, expected, plain = (run(m) for m in (guide(host, models.model, rl_model, 1.0), alone, models.model))
        assert agree(found, expected, plain)


# Windows


def test_a_scale_for_each_item_in_windows_over_the_batch(host, sd3):
    """The frames of a video in the batch, as animated UNets have it."""
    given = {"context_length": 2, "context_overlap": 1, "context_schedule": "standard_static", "context_stride": 1}
    windows = {**given, "closed_loop": False, "fuse_method": "pyramid", "dim": 0}
    if "freenoise" in inspect.signature(host.classes["ContextWindowsManual"].execute).parameters:  # newer hosts
        windows["freenoise"] = False

    def in_windows(model):
        return stock_node(host, "ContextWindowsManual", model=model, **windows)

    latent, schedule, scales = run_node(host, "RLGBatchSweep", {"samples": torch.zeros(1, 16, 8, 8)}, "0, 2, 1")
    settings = sd3.sampling(steps=2, shape=tuple(latent["samples"].shape))  # 0.3.75 takes no fewer steps than that
    found = settings.run(host, in_windows(guide(host, sd3.model, sd3.rl_model, 1.5, schedule=schedule)))
    alone = [settings.run(host, in_windows(guide(host, sd3.model, sd3.rl_model, scale))) for scale in scales]
    expected = torch.stack([latents[item] for item, latents in enumerate(alone)])
    assert agree(found, expected, settings.run(host, in_windows(sd3.model)))
