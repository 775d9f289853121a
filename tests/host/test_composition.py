"""RLG under everything that shapes a picture besides the prompt, against the combination of two plain models."""

from __future__ import annotations

import inspect

import pytest
import torch

from support import tiny
from support.guiding import guide, stock_node, two_passes
from support.sampling import Sampling, conditioning, counted_calls, unet_sampling
from support.tensors import largest, random, random_weights, rms

SD3_BLOCK = "diffusion_model.joint_blocks.0.x_block"
STYLE = {
    f"{SD3_BLOCK}.mlp.fc1.lora_up.weight": random(512, 2, size=0.3),
    f"{SD3_BLOCK}.mlp.fc1.lora_down.weight": random(2, 128, seed=1, size=0.3),
    f"{SD3_BLOCK}.attn.proj.lora_up.weight": random(128, 2, size=0.3),
    f"{SD3_BLOCK}.attn.proj.lora_down.weight": random(2, 128, seed=1, size=0.3),
}


class Models:
    """A base, its RL version beside the same weights, and a second load of both for the reference."""

    def __init__(self, host, load, lora):
        self.host = host
        self.model, copy = load(), load()
        self.rl_model, self.rl_copy = (tiny.with_lora(host, model, lora) for model in (self.model, copy))

    def agree(self, settings, scene=lambda model: model, scale=2.0, tolerance=5e-5):
        """`scene` makes of a model the model to sample. Returns the guided latent."""
        host = self.host
        guided = settings.run(host, scene(guide(host, self.model, self.rl_model, scale)))
        reference = settings.run(host, scene(two_passes(host, self.model, self.rl_copy, scale)))
        unit = max(1.0, rms(reference))
        assert torch.isfinite(guided).all()
        assert largest(guided, reference) < tolerance * unit
        assert largest(settings.run(host, scene(self.model)), reference) > 1e-2 * unit
        return guided


@pytest.fixture(scope="module")
def sd3(host):
    transformer = tiny.sd3_transformer()
    return Models(host, lambda: tiny.load(host, transformer), tiny.sd3_lora())


@pytest.fixture(scope="module")
def unet(host):
    """SD1.5 layout, its attention adapted."""
    weights = tiny.unet_weights(host)
    generator = torch.Generator().manual_seed(5)
    lora = {}
    for name, value in weights.items():
        if "attn" in name and name.endswith(".weight") and value.ndim == 2:
            stem = "diffusion_model." + name.removesuffix(".weight")
            lora[f"{stem}.lora_up.weight"] = torch.randn(len(value), 4, generator=generator) * 0.05
            lora[f"{stem}.lora_down.weight"] = torch.randn(4, value.shape[1], generator=generator) * 0.3
    return Models(host, lambda: tiny.load_weights(host, weights), lora)


# Latents


def test_batch(sd3):
    sd3.agree(Sampling(steps=3, shape=(3, 16, 8, 8)))


def test_batch_items_are_the_pictures_alone(sd3, host):
    settings = Sampling(steps=3, shape=(2, 16, 8, 8))
    both = sd3.agree(settings)
    alone = Sampling(steps=3)
    alone.noise = lambda: settings.noise()[1:]
    assert largest(alone.run(host, guide(host, sd3.model, sd3.rl_model, 2.0)), both[1:]) < 5e-5


def test_img2img(sd3, host):
    settings = Sampling(steps=4, latent=random(1, 16, 8, 8, seed=2))
    settings.sigmas = lambda host, model: Sampling(steps=8).sigmas(host, model)[-5:]
    sd3.agree(settings)


def test_inpainting(sd3, host):
    mask = torch.zeros(1, 8, 8)
    mask[:, :, 4:] = 1.0
    latent = random(1, 16, 8, 8, seed=2)
    settings = Sampling(steps=4, latent=latent, mask=mask)
    result = sd3.agree(settings)
    assert largest(result[..., :4], latent[..., :4]) < 1e-4


def test_odd_sizes(sd3):
    sd3.agree(Sampling(steps=2, shape=(1, 16, 6, 10)))


# Conditioning


def areas(*conditionings):
    """Each in a part of the picture: left half, right half, everywhere."""
    places = [(8, 4, 0, 0), (8, 4, 0, 4), None]
    return [
        [text, extra | ({"area": place, "strength": 0.7} if place else {})]
        for (text, extra), place in zip((c[0] for c in conditionings), places, strict=False)
    ]


def test_areas(sd3):
    sd3.agree(Sampling(steps=3, positive=areas(conditioning(11), conditioning(13), conditioning(14))))


def test_masks(sd3):
    left = torch.zeros(1, 8, 8)
    left[:, :, :4] = 1.0
    (text, extra), (other, more) = conditioning(11)[0], conditioning(13)[0]
    positive = [
        [text, extra | {"mask": left, "mask_strength": 1.0}],
        [other, more | {"mask": 1 - left, "mask_strength": 0.5}],
    ]
    sd3.agree(Sampling(steps=3, positive=positive))


def test_ranges_of_the_schedule(sd3):
    """Prompts that hold for a part of the steps only; one step has no negative prompt at all."""
    (text, extra), (other, more) = conditioning(11)[0], conditioning(13)[0]
    positive = [
        [text, extra | {"start_percent": 0.0, "end_percent": 0.5}],
        [other, more | {"start_percent": 0.5, "end_percent": 1.0}],
    ]
    sd3.agree(Sampling(steps=4, positive=positive))


def test_prompts_of_different_lengths(sd3):
    """Which the host cannot batch: one call each."""
    sd3.agree(Sampling(steps=3, positive=conditioning(11, tokens=11)))


def test_lora_hooks_on_a_prompt(sd3, host):
    """A LoRA for the positive prompt alone changes the shared weights for base and RL rows alike."""
    hook_lora = {name: value for name, value in STYLE.items() if ".mlp." in name}
    hooks = host.comfy.hooks.create_hook_lora(hook_lora, 1.0, 0.0)
    text, extra = conditioning(11)[0]
    settings, plain = Sampling(steps=3, positive=[[text, extra | {"hooks": hooks}]]), Sampling(steps=3)
    base, rl = settings.run(host, sd3.model), settings.run(host, sd3.rl_model)
    assert largest(base, plain.run(host, sd3.model)) > 1e-2
    assert torch.equal(settings.run(host, guide(host, sd3.model, sd3.rl_model, 0.0)), base)
    assert largest(settings.run(host, guide(host, sd3.model, sd3.rl_model, 1.0)), rl) < 5e-5
    guided = settings.run(host, guide(host, sd3.model, sd3.rl_model, 2.0))
    assert largest(guided, plain.run(host, guide(host, sd3.model, sd3.rl_model, 2.0))) > 1e-2


# ControlNet


@pytest.fixture(scope="module")
def controlnet(host):
    """SD1.5's, with weights in its zero convolutions."""
    from comfy.cldm.cldm import ControlNet as Network
    from comfy.controlnet import ControlNet

    network = Network(
        image_size=32,
        in_channels=4,
        model_channels=320,
        hint_channels=3,
        num_res_blocks=[1, 1],
        channel_mult=(1, 1),
        num_heads=8,
        transformer_depth=[1, 1],
        transformer_depth_middle=1,
        use_spatial_transformer=True,
        context_dim=768,
        legacy=False,
        dtype=torch.float32,
        operations=host.comfy.ops.manual_cast,
    )
    network.load_state_dict(random_weights(network, seed=8))
    device = host.comfy.model_management.get_torch_device()
    return ControlNet(network.eval(), load_device=device)


@pytest.mark.parametrize("end", [1.0, 0.5])
@pytest.mark.parametrize("twice", [False, True])
def test_controlnet(unet, host, controlnet, end, twice):
    """Its outputs are lists that UNets consume: each part gets its own."""
    apply = host.classes["ControlNetApplyAdvanced"]()
    positive, negative = conditioning(11, 768, None), conditioning(12, 768, None)
    for seed in (1, 2) if twice else (1,):
        image = random(1, 64, 64, 3, seed=seed).sigmoid()
        positive, negative = apply.apply_controlnet(positive, negative, controlnet, image, 0.8, 0.0, end)
    settings = unet_sampling(steps=2, positive=positive, negative=negative)
    guided = unet.agree(settings)
    plain = unet_sampling(steps=2).run(host, guide(host, unet.model, unet.rl_model, 2.0))
    assert largest(guided, plain) > 1e-2


def test_control_residuals_of_a_transformer(sd3, host):
    """Control outputs for SD3's blocks, as its ControlNets give them: a list that is read, not consumed."""
    from comfy.controlnet import ControlBase

    class Residuals(ControlBase):
        """Adds a fixed residual after each block, one row for each row of the call."""

        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            residual = random(1, 16, 128, seed=4) * 0.5
            return {"output": [residual.repeat(x_noisy.shape[0], 1, 1)] * 2}

        def get_models(self):
            return []

        def copy(self):
            return self

    text, extra = conditioning(11)[0]
    sd3.agree(Sampling(steps=2, positive=[[text, extra | {"control": Residuals()}]]))


# Other nodes


SD3_NODES = {
    "RescaleCFG": {"multiplier": 0.7},
    "APG": {"eta": 0.5, "norm_threshold": 5.0, "momentum": 0.3},
    "TCFG": {},
    "CFGZeroStar": {},
    "CFGNorm": {"strength": 1.0},
    "Mahiro": {},
    "SkipLayerGuidanceDiT": {
        "double_layers": "1",
        "single_layers": "",
        "scale": 2.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "rescaling_scale": 0.3,
    },
    "SkipLayerGuidanceSD3": {"layers": "1", "scale": 2.0, "start_percent": 0.0, "end_percent": 1.0},
    "ModelSamplingSD3": {"shift": 5.0},
    "DifferentialDiffusion": {},
    "LazyCache": {"reuse_threshold": 0.4, "start_percent": 0.2, "end_percent": 0.9, "verbose": False},
}
UNET_NODES = {
    "PerturbedAttentionGuidance": {"scale": 2.0},
    "FreeU": {"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2},
    "FreeU_V2": {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2},
    "NAGuidance": {"nag_scale": 4.0, "nag_alpha": 0.5, "nag_tau": 2.0},
    "PatchModelAddDownscale": {
        "block_number": 2,
        "downscale_factor": 2.0,
        "start_percent": 0.0,
        "end_percent": 0.6,
        "downscale_after_skip": True,
        "downscale_method": "bilinear",
        "upscale_method": "bilinear",
    },
}


@pytest.mark.parametrize("name", SD3_NODES)
def test_nodes_after_rlg(sd3, host, name):
    sd3.agree(Sampling(steps=4), lambda model: stock_node(host, name, model=model, **SD3_NODES[name]), tolerance=2e-4)


@pytest.mark.parametrize("name", UNET_NODES)
def test_nodes_of_unets_after_rlg(unet, host, name):
    unet.agree(
        unet_sampling(steps=2), lambda model: stock_node(host, name, model=model, **UNET_NODES[name]), tolerance=2e-4
    )


@pytest.mark.parametrize("name", ["SkipLayerGuidanceDiT", "RescaleCFG", "ModelSamplingSD3"])
def test_nodes_before_rlg(sd3, host, name):
    """On both models, as a graph has it that puts RLG last."""
    settings, inputs = Sampling(steps=3), SD3_NODES[name]
    before = [stock_node(host, name, model=model, **inputs) for model in (sd3.model, sd3.rl_model)]
    guided = settings.run(host, guide(host, *before, 2.0))
    after = settings.run(host, stock_node(host, name, model=guide(host, sd3.model, sd3.rl_model, 2.0), **inputs))
    assert largest(guided, after) < 5e-5


def test_self_attention_guidance(unet, host):
    """SAG remembers the attention of the latest call: that of the base, batched or not, first run or later."""
    settings = unet_sampling(steps=2, shape=(1, 4, 8, 8))
    plain = guide(host, unet.model, unet.rl_model, 2.0)
    guided = stock_node(host, "SelfAttentionGuidance", model=plain, scale=0.5, blur_sigma=2.0)
    first = settings.run(host, guided)
    assert torch.isfinite(first).all()
    assert torch.equal(settings.run(host, guided), first)
    assert largest(first, settings.run(host, plain)) > 1e-3


@pytest.mark.parametrize("start", [0.0, 0.2])
def test_easycache(unet, host, start):
    """Skips the steps it skips for one model; base and RL rows have cached changes of their own."""
    settings = unet_sampling(steps=8, scheduler="normal")
    window = {"start_percent": start, "end_percent": 0.95}

    def cached(model):
        return stock_node(host, "EasyCache", model=model, reuse_threshold=0.3, verbose=False, **window)

    guided, calls, results = guide(host, unet.model, unet.rl_model, 2.0), [], []
    block = unet.model.model.diffusion_model.middle_block[0]
    hook = block.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    try:
        settings.run(host, cached(unet.model))
        steps = len(calls)
        for _ in range(2):
            calls.clear()
            results.append(settings.run(host, cached(guided)))
    finally:
        hook.remove()
    assert torch.equal(*results)
    assert calls == [4] * steps
    assert steps < settings.steps
    assert torch.isfinite(results[0]).all()
    assert largest(results[0], settings.run(host, cached(unet.model))) > 1e-2


def test_model_function_wrapper(sd3):
    """A wrapper that calls the model on one conditioning at a time."""

    def one_by_one(apply_model, args):
        rows = args["input"].shape[0] // len(args["cond_or_uncond"])
        outputs = []

        def pick(value, k):
            return value[k * rows : (k + 1) * rows] if isinstance(value, torch.Tensor) else value

        for k, cond in enumerate(args["cond_or_uncond"]):
            c = {name: pick(value, k) for name, value in args["c"].items()}
            options = c["transformer_options"] = dict(c["transformer_options"])
            options["cond_or_uncond"], options["uuids"] = [cond], options["uuids"][k : k + 1]
            outputs.append(apply_model(pick(args["input"], k), pick(args["timestep"], k), **c))
        return torch.cat(outputs)

    def scene(model):
        model = model.clone()
        model.set_model_unet_function_wrapper(one_by_one)
        return model

    sd3.agree(Sampling(steps=3), scene)


def test_a_cfg_function_of_another_pack(sd3):
    def scene(model):
        model = model.clone()
        model.set_model_sampler_cfg_function(lambda args: args["uncond"] + 2.0 * (args["cond"] - args["uncond"]))
        return model

    sd3.agree(Sampling(steps=3), scene)


def test_context_windows(sd3, host):
    """Windows over the height, for want of a time axis; their calls have rows of their own shape."""
    settings = Sampling(steps=2, shape=(1, 16, 16, 8))
    inputs = {
        "context_length": 8,
        "context_overlap": 4,
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "dim": 2,
    }
    if "freenoise" in inspect.signature(host.classes["ContextWindowsManual"].execute).parameters:  # newer hosts
        inputs["freenoise"] = False
    sd3.agree(settings, lambda model: stock_node(host, "ContextWindowsManual", model=model, **inputs))


def test_torch_compile(host):
    """Compiled before RLG and after it, the first step with or without the terms: they run in every one.

    By the backend that has a stage of autograd behind the tracer ("eager" is the tracer alone), and of one block, as
    tracing takes most of the time.
    """
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    settings, backend = Sampling(steps=3), "aot_eager"
    model = tiny.load(host, tiny.sd3_transformer(depth=1))
    rl_model = tiny.with_lora(host, model, tiny.sd3_lora(depth=1))
    before = model.clone()
    set_torch_compile_wrapper(before, backend=backend)
    after = guide(host, model, rl_model, 2.0)
    expected = settings.run(host, after)
    set_torch_compile_wrapper(after, backend=backend)
    assert largest(settings.run(host, after), expected) < 5e-5
    rl_before = before.clone()
    rl_before.patches, rl_before.patches_uuid = rl_model.patches, rl_model.patches_uuid
    late = {"start_percent": 0.5, "outside_scale": 0.0}
    uncompiled = settings.run(host, guide(host, model, rl_model, 2.0, **late))
    compiled = settings.run(host, guide(host, before, rl_before, 2.0, **late))
    assert largest(compiled, uncompiled) < 5e-5
    assert torch.equal(settings.run(host, before), settings.run(host, guide(host, before, rl_before, 0.0)))


# Two checkpoints


class Checkpoints:
    """A base and an RL checkpoint with weights of its own."""

    def __init__(self, host):
        self.host = host
        self.model, self.rl_model = (tiny.load(host, tiny.sd3_transformer(seed)) for seed in (0, 9))


@pytest.fixture(scope="module")
def checkpoints(host):
    return Checkpoints(host)


def test_two_checkpoints(checkpoints, host):
    settings, model, rl_model = Sampling(steps=4), checkpoints.model, checkpoints.rl_model
    base, rl = settings.run(host, model), settings.run(host, rl_model)
    for scale, expected in ((0.0, base), (1.0, rl)):
        with counted_calls(model) as base_calls, counted_calls(rl_model) as rl_calls:
            assert torch.equal(settings.run(host, guide(host, model, rl_model, scale)), expected)
        assert (base_calls, rl_calls) == (([2] * 4, []) if scale == 0.0 else ([], [2] * 4))
    with counted_calls(model) as base_calls, counted_calls(rl_model) as rl_calls:
        guided = settings.run(host, guide(host, model, rl_model, 1.6))
    assert base_calls == rl_calls == [2] * 4
    assert largest(guided, settings.run(host, two_passes(host, model, rl_model, 1.6))) < 5e-5
    assert model.model.current_patcher is None and rl_model.model.current_patcher is None
    assert torch.equal(settings.run(host, rl_model), rl)


def test_two_checkpoints_and_a_lora(checkpoints, sd3, host):
    """Experts of both kinds on one base, in either order."""
    settings = Sampling(steps=3)
    lora = sd3.model.clone()
    lora.patches, lora.patches_uuid = sd3.rl_model.patches, sd3.rl_model.patches_uuid
    results = []
    for experts in (((lora, 0.7), (checkpoints.rl_model, 0.9)), ((checkpoints.rl_model, 0.9), (lora, 0.7))):
        model = sd3.model
        for rl_model, scale in experts:
            model = guide(host, model, rl_model, scale)
        results.append(settings.run(host, model))
    assert largest(*results) < 5e-5
    reference = two_passes(host, sd3.model, sd3.rl_copy, 0.7)
    for result in results:
        assert largest(result, settings.run(host, reference)) > 1e-2


@pytest.mark.parametrize("zsnr", [False, True])
def test_eps_base_and_v_prediction_rl_model(unet, host, zsnr):
    """Each predicts in its own way; they meet in denoised space, at the base's noise levels."""
    weights = tiny.unet_weights(host, seed=7)
    tuned = tiny.load_weights(host, weights)
    rl_model = stock_node(host, "ModelSamplingDiscrete", model=tuned, sampling="v_prediction", zsnr=zsnr)
    settings = unet_sampling(steps=3)
    assert type(unet.model.model.model_sampling).__mro__ != type(rl_model.get_model_object("model_sampling")).__mro__
    for scale in (0.0, 2.0):
        guided = settings.run(host, guide(host, unet.model, rl_model, scale))
        expected = settings.run(host, two_passes(host, unet.model, rl_model, scale) if scale else unet.model)
        assert largest(guided, expected) < 1e-4 * max(1.0, rms(expected))
    if not zsnr:
        alone = settings.run(host, guide(host, unet.model, rl_model, 1.0))
        assert largest(alone, settings.run(host, rl_model)) < 1e-4 * max(1.0, rms(alone))


def both_before(host, model, rl_model):
    return guide(host, tiny.with_lora(host, model, STYLE), tiny.with_lora(host, rl_model, STYLE), 1.6)


def after(host, model, rl_model):
    return tiny.with_lora(host, guide(host, model, rl_model, 1.6), STYLE)


def between(host, model, rl_model):
    """Between two experts, the second of which counts nothing."""
    styled = tiny.with_lora(host, guide(host, model, rl_model, 1.6), STYLE)
    other = model.clone()
    other.add_patches({f"{SD3_BLOCK}.attn.proj.weight": ("diff", (random(128, 128),))})
    return guide(host, styled, tiny.with_lora(host, other, STYLE), 0.0)


@pytest.mark.parametrize("place", [after, between], ids=lambda place: place.__name__)
def test_a_style_lora_after_rlg_reaches_both(checkpoints, sd3, host, place):
    settings = Sampling(steps=3)
    for model, rl_model in ((checkpoints.model, checkpoints.rl_model), (sd3.model, sd3.rl_model)):
        plain = settings.run(host, rl_model)
        expected = settings.run(host, both_before(host, model, rl_model))
        placed = place(host, model, rl_model)
        for _ in range(2):
            assert largest(settings.run(host, placed), expected) < 5e-5
        assert largest(settings.run(host, guide(host, model, rl_model, 1.6)), expected) > 1e-2
        assert torch.equal(settings.run(host, rl_model), plain)


def test_merges_after_rlg(checkpoints, sd3, host):
    """A merge after RLG is a merge of both models, with weights of their own or beside shared ones."""
    settings = Sampling(steps=3)
    third = tiny.load(host, tiny.sd3_transformer(seed=4))

    def merge(model):
        return stock_node(host, "ModelMergeSimple", model1=model, model2=third, ratio=0.6)

    for pair in (checkpoints, sd3):
        model, rl_model = pair.model, pair.rl_model
        expected = settings.run(host, guide(host, merge(model), merge(rl_model), 1.6))
        assert largest(settings.run(host, merge(guide(host, model, rl_model, 1.6))), expected) < 5e-5
        assert largest(settings.run(host, guide(host, model, rl_model, 1.6)), expected) > 1e-2


def test_hooks_on_two_checkpoints_are_refused(checkpoints, host):
    hooks = host.comfy.hooks.create_hook_lora(STYLE, 1.0, 0.0)
    text, extra = conditioning(11)[0]
    settings = Sampling(steps=2, positive=[[text, extra | {"hooks": hooks}]])
    with pytest.raises(host.module("rlg_core.errors").RunError, match="hook"):
        settings.run(host, guide(host, checkpoints.model, checkpoints.rl_model, 1.6))


def test_strangers_are_refused(checkpoints, sd3, unet, host):
    error = host.module("rlg_core.errors").PairError
    deeper = tiny.load(host, tiny.sd3_transformer(depth=3))
    flow = stock_node(host, "ModelSamplingDiscrete", model=checkpoints.rl_model, sampling="eps", zsnr=False)
    for rl_model, match in (
        (unet.model, r"architecture: SD3 and BaseModel"),
        (deeper, r"weights: \d+ tensors, first .* absent|weights: \d+ tensors, first"),
        (flow, "way of adding noise"),
    ):
        with pytest.raises(error, match=match):
            guide(host, checkpoints.model, rl_model, 2.0)
    with pytest.raises(error, match="sampling"):
        shifted = stock_node(host, "ModelSamplingSD3", model=sd3.rl_model, shift=9.0)
        guide(host, sd3.model, shifted, 2.0)


def test_two_quantised_checkpoints_of_one_architecture(host):
    """The RL model is stored in fp8, its base is not."""
    settings = Sampling(steps=3)
    model = tiny.load(host, tiny.sd3_transformer())
    rl_model = tiny.load(host, tiny.sd3_transformer(9), torch.float8_e4m3fn)
    rl = settings.run(host, rl_model)
    assert torch.equal(settings.run(host, guide(host, model, rl_model, 1.0)), rl)
    guided = settings.run(host, guide(host, model, rl_model, 1.5))
    assert largest(guided, settings.run(host, two_passes(host, model, rl_model, 1.5))) < 5e-5
