"""Every kind of weight patch an RL model may differ by: exact, or refused by name."""

from __future__ import annotations

import copy

import pytest
import torch

from support import tiny
from support.guiding import guide, stock_node, two_passes
from support.sampling import Sampling, unet_sampling, wan_sampling
from support.tensors import largest, random, rms

LINEAR = "diffusion_model.joint_blocks.0.x_block.attn.proj.weight"
FUSED = "diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"
NORM_OF_UNET = "diffusion_model.output_blocks.0.0.in_layers.0.weight"
CONV = "diffusion_model.input_blocks.1.0.in_layers.2.weight"
POINTWISE = "diffusion_model.input_blocks.1.1.proj_in.weight"
STRIDED = "diffusion_model.input_blocks.2.0.op.weight"
UNET_LINEAR = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


class Family:
    """One architecture, loaded twice: two models of the same weights that share nothing."""

    def __init__(self, host, weights, settings):
        self.host, self.settings, self.weights = host, settings, weights
        self.model, self.copy = tiny.load_weights(host, weights), tiny.load_weights(host, weights)
        self.shapes = {k: tuple(v.shape) for k, v in self.model.model.state_dict().items()}

    def patched(self, model, *patches, strength=1.0, strength_model=1.0):
        """A clone with stock patches on it; each of `patches` is `{key: value}` or `{(key, offset): value}`."""
        clone = model.clone()
        for patch in patches:
            assert clone.add_patches(patch, strength, strength_model)
        return clone

    def with_weights(self, deltas):
        """A model loaded from weights that differ by `deltas`, named as the host names them."""
        changed = dict(self.weights)
        for key, delta in deltas.items():
            name = next(n for n in changed if n.endswith(key.removeprefix("diffusion_model.")))
            changed[name] = changed[name] + delta
        return tiny.load_weights(self.host, changed)

    def check(self, base, rl, rl_copy, tolerance=2e-5):
        """Scale 0, 1 and 2 against plain graphs and against the combination of two plain models."""
        host, settings = self.host, self.settings
        plain_base, plain_rl = settings.run(host, base), settings.run(host, rl_copy)
        unit = max(1.0, rms(plain_base))
        assert largest(plain_base, plain_rl) > 1e-3 * unit
        assert torch.equal(settings.run(host, guide(host, base, rl, 0.0)), plain_base)
        assert largest(settings.run(host, guide(host, base, rl, 1.0)), plain_rl) < tolerance * unit
        expected = settings.run(host, two_passes(host, base, rl_copy, 2.0))
        assert largest(settings.run(host, guide(host, base, rl, 2.0)), expected) < 2 * tolerance * unit

    def check_patches(self, *patches, base=(), **strengths):
        """The RL model has `base` and `patches`, the base model `base` alone."""
        base, base_copy = (self.patched(model, *base) for model in (self.model, self.copy))
        self.check(base, self.patched(base, *patches, **strengths), self.patched(base_copy, *patches, **strengths))


@pytest.fixture(scope="module")
def sd3(host):
    weights = tiny.weights_of(tiny.load(host, tiny.sd3_transformer()))
    return Family(host, {f"model.diffusion_model.{k}": v for k, v in weights.items()}, Sampling(steps=2))


@pytest.fixture(scope="module")
def wan(host):
    return Family(host, tiny.wan_weights(host), wan_sampling())


@pytest.fixture(scope="module")
def unet(host):
    return Family(host, tiny.unet_weights(host), unet_sampling(steps=2))


def adapter(host, kind: str, *weights):
    """A stock weight adapter, as the host's loaders make them."""
    import comfy.weight_adapter as stock

    return next(cls for cls in stock.adapters if cls.name == kind)(set(), weights)


def lora(host, shape, rank=4, alpha=None, dora=None, mid=None, seed=0, size=0.3):
    out, inner = shape[0], shape[1]
    kernel = shape[2:] if mid is None else [1] * len(shape[2:])
    down = random(rank, inner, *kernel, seed=seed, size=size)
    up = random(out, rank, *[1] * len(shape[2:]), seed=seed + 1, size=size / 4)
    return adapter(host, "lora", up, down, alpha, mid, dora, None)


def loha(host, shape, rank=3):
    out, inner = shape[0], torch.Size(shape[1:]).numel()
    return adapter(
        host,
        "loha",
        random(out, rank),
        random(rank, inner, size=0.2),
        6.0,
        random(out, rank, seed=5),
        random(rank, inner, seed=5, size=0.2),
        None,
        None,
        None,
    )


def loha_tucker(host, shape, rank=3):
    out, inner = shape[:2]
    cores = [random(rank, rank, *shape[2:], seed=seed, size=0.3) for seed in (1, 2)]
    return adapter(
        host,
        "loha",
        random(rank, out),
        random(rank, inner, size=0.3),
        None,
        random(rank, out, seed=5),
        random(rank, inner, seed=5, size=0.3),
        *cores,
        None,
    )


def lokr(host, shape):
    right = random(shape[0] // 2, shape[1] // 2, *shape[2:], size=0.03)
    return adapter(host, "lokr", random(2, 2), right, 1.0, None, None, None, None, None, None)


def lokr_factored(host, shape, rank=2):
    inner = torch.Size(shape[1:]).numel() // 2
    return adapter(
        host,
        "lokr",
        None,
        None,
        1.0,
        random(2, rank),
        random(rank, 2),
        random(shape[0] // 2, rank, size=0.3),
        random(rank, inner, size=0.1),
        None,
        None,
    )


def glora(host, shape, rank=4):
    inner = torch.Size(shape[1:]).numel()
    return adapter(
        host,
        "glora",
        random(shape[1], rank, size=0.2),
        random(rank, shape[1], size=0.2),
        random(shape[0], rank, size=0.2),
        random(rank, inner, size=0.2),
        None,
        None,
    )


def oft(host, shape):
    return adapter(host, "oft", random(shape[0] // 8, 8, 8, size=0.1), None, None, None)


def boft(host, shape):
    return adapter(host, "boft", random(2, shape[0] // 8, 8, 8, size=0.1), None, 0.0, None)


def dora(host, shape):
    return lora(host, shape, dora=random(shape[0], *[1] * (len(shape) - 1)).abs() + 0.5)


def tucker(host, shape, rank=4):
    return lora(host, shape, rank, mid=random(rank, rank, *shape[2:], size=0.5))


def difference(host, shape):
    return ("diff", (random(*shape, size=0.05),))


def replacement(host, shape):
    return ("set", (random(*shape, size=0.05),))


def conv_alpha(host, shape):
    return lora(host, shape, alpha=8.0)


LINEAR_KINDS = [lora, conv_alpha, dora, loha, lokr, lokr_factored, glora, oft, boft, difference, replacement]
CONV_KINDS = [lora, tucker, dora, loha, loha_tucker, lokr, lokr_factored, oft, difference]


@pytest.mark.parametrize("kind", LINEAR_KINDS, ids=lambda kind: kind.__name__)
def test_linear_layers(sd3, kind):
    sd3.check_patches({LINEAR: kind(sd3.host, sd3.shapes[LINEAR])})


@pytest.mark.parametrize("kind", CONV_KINDS, ids=lambda kind: kind.__name__)
def test_convolutions(unet, kind):
    unet.check_patches({key: kind(unet.host, unet.shapes[key]) for key in (CONV, STRIDED)})


def test_lokr_with_a_tucker_core(unet):
    """The host's own arithmetic fails here (it logs an error and leaves the weight alone): checked against the sum."""
    shape, rank = unet.shapes[CONV], 2
    left, core, up, down = (
        random(2, 2),
        random(rank, rank, 3, 3, size=0.3),
        random(rank, 160, size=0.3),
        random(rank, 160, size=0.3),
    )
    right = torch.einsum("ijkl,jr,ip->prkl", core, down, up)
    delta = (left[:, None, :, None, None, None] * right[None, :, None]).reshape(shape) / rank
    patch = adapter(unet.host, "lokr", left, None, 1.0, None, None, up, down, core, None)
    unet.check(unet.model, unet.patched(unet.model, {CONV: patch}), unet.patched(unet.copy, {CONV: ("diff", (delta,))}))


def test_pointwise_convolution_and_linear_layer(unet):
    pointwise = unet.shapes[POINTWISE]
    flat = lora(unet.host, pointwise[:2])
    unet.check_patches({POINTWISE: flat, UNET_LINEAR: lora(unet.host, (*unet.shapes[UNET_LINEAR], 1, 1))})


@pytest.mark.parametrize("strength", [-0.7, 0.5, 2.0])
def test_strengths(sd3, strength):
    """Also where an adapter depends on the weight, and the strength enters in its own way."""
    host, shape = sd3.host, sd3.shapes[LINEAR]
    sd3.check_patches({LINEAR: lora(host, shape), FUSED: oft(host, sd3.shapes[FUSED])}, strength=strength)


def test_a_weight_set_at_strength_0(sd3):
    """The host sets it at any strength, as where a LoRA loader has strength for the text encoder alone."""
    sd3.check_patches({LINEAR: replacement(sd3.host, sd3.shapes[LINEAR])}, strength=0.0)


@pytest.mark.parametrize("kind", [lora, loha, lokr, dora, oft, difference], ids=lambda kind: kind.__name__)
def test_slices_of_fused_weights(sd3, kind):
    width = sd3.shapes[FUSED][1]
    slices = {(FUSED, (0, k * width, width)): kind(sd3.host, (width, width)) for k in (0, 2)}
    sd3.check_patches(slices)


def test_slices_mixed_with_the_whole(sd3):
    width = sd3.shapes[FUSED][1]
    sd3.check_patches(
        {(FUSED, (0, width, width)): lora(sd3.host, (width, width))},
        {FUSED: difference(sd3.host, sd3.shapes[FUSED])},
        {FUSED: lora(sd3.host, sd3.shapes[FUSED], rank=7)},
    )


def test_a_function_on_the_change(sd3):
    """As FLUX's final modulation has it, whose halves are swapped."""
    key = "diffusion_model.final_layer.adaLN_modulation.1.weight"

    def swap(weight):
        return torch.cat(weight.chunk(2)[::-1])

    sd3.check_patches({(key, None, swap): lora(sd3.host, sd3.shapes[key])})


@pytest.mark.parametrize("kind", [difference, replacement], ids=lambda kind: kind.__name__)
def test_biases_and_norms(unet, kind):
    keys = [
        NORM_OF_UNET,
        NORM_OF_UNET.replace("weight", "bias"),
        CONV.replace("weight", "bias"),
        "diffusion_model.time_embed.0.bias",
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.norm2.weight",
    ]
    unet.check_patches({key: kind(unet.host, unet.shapes[key]) for key in keys})


def test_norms_of_queries_and_keys(host):
    """SD3.5 normalises queries and keys, per head."""
    transformer = tiny.sd3_transformer(qk_norm="rms_norm")
    family = Family(host, transformer.state_dict(), Sampling(steps=2))
    key = "diffusion_model.joint_blocks.0.x_block.attn.ln_q.weight"
    family.check_patches({key: ("diff", (random(*family.shapes[key], size=0.5),))})


def test_several_kinds_on_one_weight(sd3):
    shape = sd3.shapes[LINEAR]
    kinds = [lora, loha, lokr, difference]
    sd3.check_patches(*({LINEAR: kind(sd3.host, shape)} for kind in kinds))
    sd3.check_patches(*({LINEAR: kind(sd3.host, shape)} for kind in (lora, dora, difference)), strength=0.8)


# Merges


def merged(family, model, other, ratio):
    return stock_node(family.host, "ModelMergeSimple", model1=model, model2=other, ratio=ratio)


@pytest.fixture(scope="module")
def stranger(sd3, host):
    """Another checkpoint of SD3's architecture."""
    return tiny.load(host, tiny.sd3_transformer(seed=9))


@pytest.mark.parametrize("ratio", [0.0, 0.7])
def test_merged_checkpoints(sd3, stranger, ratio):
    sd3.check(sd3.model, merged(sd3, sd3.model, stranger, ratio), merged(sd3, sd3.copy, stranger, ratio))


def test_merge_of_a_lora_model(sd3, stranger):
    patch = {LINEAR: lora(sd3.host, sd3.shapes[LINEAR])}
    models = (merged(sd3, sd3.patched(model, patch), stranger, 0.8) for model in (sd3.model, sd3.copy))
    sd3.check(sd3.patched(sd3.model, patch), *models)


def test_merge_with_itself_is_nothing(sd3, caplog):
    same = merged(sd3, sd3.model, sd3.copy, 0.5)
    assert guide(sd3.host, sd3.model, same, 2.0) is sd3.model
    assert "are the same model" in caplog.text


# LoRAs that both carry


def style_of(sd3):
    """A style LoRA, made anew by every call as a loader node makes it."""
    return {key: lora(sd3.host, sd3.shapes[key], seed=7) for key in (LINEAR, FUSED)}


def test_style_lora_on_both(sd3):
    sd3.check_patches({LINEAR: lora(sd3.host, sd3.shapes[LINEAR])}, base=[style_of(sd3)])


def test_style_lora_loaded_twice(sd3):
    """Two loader nodes read the same file: the patches are equal, not the same."""
    rl = {LINEAR: lora(sd3.host, sd3.shapes[LINEAR])}
    base = sd3.patched(sd3.model, style_of(sd3))
    sd3.check(base, sd3.patched(sd3.model, style_of(sd3), rl), sd3.patched(sd3.copy, style_of(sd3), rl))
    assert guide(sd3.host, base, sd3.patched(sd3.model, style_of(sd3)), 2.0) is base


def test_lora_on_the_base_alone(sd3):
    rl = {LINEAR: lora(sd3.host, sd3.shapes[LINEAR])}
    sd3.check(sd3.patched(sd3.model, style_of(sd3)), sd3.patched(sd3.model, rl), sd3.patched(sd3.copy, rl))


def test_one_lora_at_two_strengths(sd3):
    style = {LINEAR: lora(sd3.host, sd3.shapes[LINEAR])}
    weak, strong = (sd3.patched(sd3.model, style, strength=s) for s in (0.3, 1.2))
    sd3.check(weak, strong, sd3.patched(sd3.copy, style, strength=1.2))


def test_weight_dependent_patches_on_both(sd3):
    """DoRA under another LoRA: the order of patches matters, and base and RL model are merged as the host would."""
    style = {LINEAR: dora(sd3.host, sd3.shapes[LINEAR])}
    sd3.check_patches({LINEAR: lora(sd3.host, sd3.shapes[LINEAR], seed=3)}, base=[style])


# Refusals


def refused(sd3, match, *patches, **strengths):
    error = sd3.host.module("rlg_core.errors").PairError
    with pytest.raises(error, match=match):
        guide(sd3.host, sd3.model, sd3.patched(sd3.model, *patches, **strengths), 2.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [lora, loha, lokr, dora, oft, difference], ids=lambda kind: kind.__name__)
def test_numbers_that_are_none(sd3, kind, value):
    patch = kind(sd3.host, sd3.shapes[LINEAR])
    tensors = patch[1] if isinstance(patch, tuple) else [w for w in patch.weights if isinstance(w, torch.Tensor)]
    tensors[0].flatten()[0] = value
    refused(sd3, r"joint_blocks\.0\.x_block\.attn\.proj.*NaN", {LINEAR: patch})


@pytest.mark.parametrize("kind", [lora, loha, lokr, dora, oft, difference], ids=lambda kind: kind.__name__)
def test_shapes_that_do_not_fit(sd3, kind):
    """The host logs and leaves such a weight unchanged: guidance would be silently zero."""
    refused(sd3, LINEAR.replace(".", r"\."), {LINEAR: kind(sd3.host, (120, 136))})


def test_a_lora_that_widens_the_weight(sd3):
    out, inner = sd3.shapes[LINEAR]
    wide = lora(sd3.host, (out + 8, inner))
    wide.weights = (*wide.weights[:5], [out + 8, inner])
    refused(sd3, rf"{LINEAR}.*{out + 8}.*expected.*{out}", {LINEAR: wide})


def test_bypassed_loras(sd3):
    loader = sd3.host.classes.get("LoraLoaderBypassModelOnly")
    if loader is None:
        pytest.skip("this host has no bypass mode")
    state = {
        "diffusion_model.joint_blocks.0.x_block.attn.proj.lora_up.weight": random(128, 4),
        "diffusion_model.joint_blocks.0.x_block.attn.proj.lora_down.weight": random(4, 128),
    }
    bypassed = sd3.host.comfy.sd.load_bypass_lora_for_models(sd3.model, None, state, 1.0, 0.0)[0]
    error = sd3.host.module("rlg_core.errors").PairError
    with pytest.raises(error, match="bypass"):
        guide(sd3.host, sd3.model, bypassed, 2.0)


def test_rlg_on_the_rl_model(sd3):
    rl = sd3.patched(sd3.model, {LINEAR: lora(sd3.host, sd3.shapes[LINEAR])})
    guided = guide(sd3.host, sd3.model, rl, 2.0)
    with pytest.raises(sd3.host.module("rlg_core.errors").PairError, match="already has RLG"):
        guide(sd3.host, sd3.model, guided, 2.0)


# Parameters that all rows of a call share


@pytest.mark.parametrize(
    "family, key", [("wan", "diffusion_model.blocks.0.modulation"), ("sd3", "diffusion_model.pos_embed")]
)
def test_parameters_of_blocks_run_in_passes_of_their_own(request, caplog, family, key):
    """The host leaves out patches on such parameters: the truth is a model loaded with changed weights."""
    family = request.getfixturevalue(family)
    delta = random(*family.shapes[key], size=0.5)
    before = family.model.get_model_object(key)
    family.check(
        family.model, family.patched(family.model, {key: ("diff", (delta,))}), family.with_weights({key: delta})
    )
    assert family.model.get_model_object(key) is before
    assert "are the same for all rows" in caplog.text


def test_parameters_of_blocks_beside_layers(wan):
    key, linear = "diffusion_model.blocks.0.modulation", "diffusion_model.blocks.0.self_attn.q.weight"
    delta = random(*wan.shapes[key], size=0.5)
    others = [
        {linear: lora(wan.host, wan.shapes[linear])},
        {"diffusion_model.blocks.0.norm3.weight": ("diff", (random(256, size=0.3),))},
    ]
    rl = wan.patched(wan.model, {key: ("diff", (delta,))}, *others)
    wan.check(wan.model, rl, wan.patched(wan.with_weights({key: delta}), *others))


@pytest.mark.parametrize("with_parameter", [False, True])
def test_layers_that_never_run_are_an_error(wan, with_parameter):
    """A model whose forward another node replaces would sample the base, or half of the RL model, under RLG's name."""
    from comfy.patcher_extension import WrappersMP

    linear, key = "diffusion_model.blocks.0.self_attn.q.weight", "diffusion_model.blocks.0.modulation"
    patches = [{linear: lora(wan.host, wan.shapes[linear])}]
    patches += [{key: ("diff", (random(*wan.shapes[key]),))}] if with_parameter else []
    guided = guide(wan.host, wan.model, wan.patched(wan.model, *patches), 2.0)
    guided.add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, "test", lambda executor, x, *args, **kwargs: torch.zeros_like(x)
    )
    with pytest.raises(ValueError, match="changes 1 layers, and 1 of them did not run"):
        wan.settings.run(wan.host, guided)


def test_norms_whose_weights_the_host_reads_itself(host):
    """0.30 fuses the norms of queries and keys of Z-Image and Lumina with the rotation, and never calls them."""
    from comfy.ldm.flux.layers import EmbedND
    from comfy.ldm.lumina.model import JointAttention

    algebra, rows = host.module("rlg_core.algebra"), host.module("rlg_core.rows")
    is_norm = host.module("nodes.host.compat").is_norm
    settings = {"operations": host.comfy.ops.disable_weight_init, "dtype": torch.float32}
    root = torch.nn.ModuleDict({"attention": JointAttention(32, 2, 2, True, operation_settings=settings)})
    for parameter in root.parameters():
        parameter.data = random(*parameter.shape, size=0.3)
    root.requires_grad_(False)
    angles = EmbedND(dim=16, theta=100, axes_dim=[16])(torch.arange(4.0).reshape(1, 4, 1)).movedim(1, 2)
    x, delta = random(2, 4, 32), random(16, seed=3)

    def run(network):
        return network["attention"](x, None, angles)

    expected = copy.deepcopy(root)
    expected["attention"].q_norm.weight += delta  # the only change: no layer's terms tell that the model ran
    placed = algebra.Placed("weight", algebra.Delta(delta))
    term = rows.module_terms(root["attention"].q_norm, [placed], torch.float32)
    bank = rows.RowTerms(root, {1: {"attention.q_norm": term}}, is_norm)
    for _ in range(2):  # the second pass knows what the first one found
        with bank.attached([rows.Assignment(1, 0, 2)], 2) as call:
            found = run(root)
        passed_by = bank.passed_by(call)
        bank.swap(passed_by)
        if not passed_by:
            break
    assert not passed_by and (found - run(expected)).abs().max() < 1e-5 and (found - run(root)).abs().max() > 1e-3
