"""Quantised models: whatever reads their weights reads what their layers compute with."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from support import packed, reading, tiny
from support.guiding import guide, run_node
from support.quantised import LAYOUTS, dequantised, is_quantised, rl_version, save, scaled_fp8
from support.sampling import Sampling
from support.tensors import largest, rms

BITS = {"packed_8bit": 8, "packed_4bit": 4}
KINDS = [*LAYOUTS, *BITS]
EXACT = [kind for kind in KINDS if kind != "int8_tensorwise"]
"""Those whose layers are linear: the host's int8 layers also round what goes into them."""
FILES = [kind for kind in EXACT if kind in LAYOUTS]

pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture(scope="module")
def weights(host):
    return tiny.weights_of(tiny.load(host, tiny.sd3_transformer()))


@pytest.fixture(scope="module")
def rl_weights(weights):
    return rl_version(weights)


@pytest.fixture
def folder(host, tmp_path):
    """A folder of the host's for models, adapters and what is saved."""
    for name in ("diffusion_models", "loras"):
        host.folder_paths.add_model_folder_path(name, str(tmp_path), is_default=True)
    before = host.folder_paths.get_output_directory()
    host.folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    host.folder_paths.set_output_directory(before)


@pytest.fixture
def load(host, folder):
    """Loads weights quantised as a kind as a MODEL."""

    def loaded(weights, kind):
        if kind in BITS:
            return packed.load(host, weights, BITS[kind])
        file = folder / f"{len(list(folder.iterdir()))}.safetensors"
        return host.comfy.sd.load_diffusion_model(str(save(weights, kind, file)))

    return loaded


@pytest.fixture
def settings():
    return Sampling(steps=2)


# One model


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_reads_as_its_layer_computes(host, weights, load, kind):
    model = load(weights, kind)
    reading.assert_read_as_computed(host, model)
    own = weights[reading.KEY.removeprefix("diffusion_model.")]
    assert (largest(reading.unpatched(host, model), own) > 1e-4) == (kind != "plain")


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_reads_without_the_patches_in_memory(host, weights, load, kind):
    reading.assert_read_without_patches(host, load(weights, kind))


@pytest.mark.parametrize("kind", FILES)
def test_a_weight_reads_in_float32_whatever_the_model_computes_in(host, weights, load, monkeypatch, kind):
    monkeypatch.setattr(host.comfy.model_management, "unet_manual_cast", lambda *_, **__: torch.bfloat16)
    model = load(weights, kind)
    layer, x = model.model.get_submodule(reading.KEY.removesuffix(".weight")), torch.ones(1, 128, dtype=torch.bfloat16)
    before = layer(x)
    assert before.dtype == torch.bfloat16
    assert reading.unpatched(host, model).dtype == torch.float32
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_tells_the_size_of_the_change(host, weights, load, folder, kind):
    reading.assert_size_reported(host, load(weights, kind), folder)


@pytest.mark.parametrize("kind", EXACT)
def test_an_adapter_is_guided_as_on_plain_weights(host, weights, load, kind):
    reading.assert_adapter_guided(host, load(weights, kind))


@pytest.mark.parametrize("kind", BITS)
def test_packed_layers_under_a_patch_are_met_exactly(host, weights, load, kind):
    reading.assert_patched_model_met(host, load(weights, kind), load(weights, kind))


@pytest.mark.parametrize("kind", EXACT)
def test_dora_is_guided_as_on_plain_weights(host, weights, load, folder, kind):
    reading.assert_dora_guided(host, load(weights, kind), folder)


@pytest.mark.parametrize("kind", EXACT)
def test_dora_is_saved_as_on_plain_weights(host, weights, load, folder, kind):
    reading.assert_dora_saved(host, load(weights, kind), folder)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_extracted_as_on_plain_weights(host, weights, load, kind):
    reading.assert_adapter_extracted(host, load(weights, kind))


# Two checkpoints


@pytest.mark.parametrize("kind", EXACT)
def test_two_quantised_models_differ_by_their_dequantised_weights(host, weights, rl_weights, load, kind):
    reading.assert_difference_extracted(host, load(weights, kind), load(rl_weights, kind))


def pairs(kinds):
    """Each kind with itself, with the next, and with plain weights on either side.

    A model's weights are read by its own kind alone: all the other pairs would read nothing that these do not.
    """
    others = [kind for kind in kinds if kind != "plain"]
    found = [*zip(kinds, kinds), *zip(others, others[1:] + others[:1])]
    return found + [pair for kind in others for pair in (("plain", kind), (kind, "plain"))]


@pytest.mark.parametrize(("kind", "rl_kind"), pairs(KINDS))
def test_two_checkpoints_in_any_quantisation(host, weights, rl_weights, load, kind, rl_kind):
    reading.assert_two_guided(host, load(weights, kind), load(rl_weights, rl_kind), load(rl_weights, rl_kind))


@pytest.fixture
def load_pair(host, weights, rl_weights, folder):
    """(model, rl_model, report) of the pair loader, for files of two kinds."""

    def loaded(kind, rl_kind, compress, rl_weights=rl_weights):
        save(weights, kind, folder / "base.safetensors")
        save(rl_weights, rl_kind, folder / "rl.safetensors")
        names = "diffusion_models/base.safetensors", "diffusion_models/rl.safetensors"
        model, rl_model, *_, report = run_node(host, "RLGCheckpointPairLoader", *names, "default", compress, 384)
        return model, rl_model, report

    return loaded


@pytest.mark.parametrize(("kind", "rl_kind"), pairs(FILES))
def test_a_pair_of_files_at_full_rank(host, weights, rl_weights, load, load_pair, settings, kind, rl_kind):
    model, rl_model, report = load_pair(kind, rl_kind, "low-rank")
    assert "Kept energy of the difference: 100.0000%" in report
    base, rl = load(weights, kind), load(rl_weights, rl_kind)
    expected = settings.run(host, rl)
    effect = rms(expected - settings.run(host, base))
    assert largest(settings.run(host, guide(host, model, rl_model, 1.0)), expected) < 1e-3 * effect
    # By itself, rl_model is what the host makes of these changes: it rounds patched weights as the base is rounded.
    before, after = dequantised(base), dequantised(rl)
    changes = {f"diffusion_model.{name}": ("diff", (after[name] - before[name],)) for name in before}
    base.add_patches({key: change for key, change in changes.items() if change[1][0].abs().max() > 1e-6})
    assert rms(settings.run(host, rl_model) - settings.run(host, base)) < 0.2 * effect
    assert ("by itself, rl_model is further off" in report) == (kind != "plain")


@pytest.mark.parametrize("kind", LAYOUTS)
def test_equal_quantised_weights_are_held_once(host, weights, rl_weights, load, load_pair, settings, kind):
    model, rl_model, report = load_pair(kind, kind, "off")
    sizes = report.splitlines()[1].removeprefix("Weights: ").split("each, ")
    each, shared = (float(size.split(" MB")[0]) for size in sizes)
    assert 0.7 * each < shared < each
    for ours, own in ((model, load(weights, kind)), (rl_model, load(rl_weights, kind))):
        for on in (lambda m: tiny.with_lora(host, m, tiny.sd3_lora()), lambda m: m):
            assert torch.equal(settings.run(host, on(ours)), settings.run(host, on(own)))


def test_scales_alone_make_another_model(weights, load_pair):
    """Equal bits under other scales are not the same weights."""
    louder = {name: value * (2.0 if is_quantised(name, value) else 1.0) for name, value in weights.items()}
    assert "guidance will change nothing" not in load_pair("scaled_fp8", "scaled_fp8", "off", louder)[2]


# fp8 arithmetic


def test_fast_fp8_keeps_the_scales_of_a_quantised_checkpoint(host, folder, weights, settings, monkeypatch):
    """On a GPU with fp8 arithmetic too, the host's quantised layers stay: its plain fp8 layers know no scales."""
    monkeypatch.setattr(host.comfy.model_management, "supports_fp8_compute", lambda device=None: True)
    path = folder / "scaled.safetensors"
    save_file({f"model.diffusion_model.{name}": value for name, value in scaled_fp8(weights).items()}, path)
    checkpoints = host.module("nodes.host.models.checkpoints")
    fast, default = (
        checkpoints.load_model(path, checkpoints.WEIGHT_DTYPES[name]) for name in ("fp8_e4m3fn_fast", "default")
    )
    exact = settings.run(host, tiny.load_weights(host, weights))
    error, expected = (rms(settings.run(host, model) - exact) for model in (fast, default))
    assert 0 < error < 3 * expected + 0.05 * rms(exact)
