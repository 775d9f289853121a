"""Weights that cannot be read, or whose changes would be other ones: refused in plain words where they matter."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from support import tiny
from support.guiding import guide, run_node
from support.packed import Linear4bit, SVDQW4A4Linear, with_layers
from support.quantised import LAYOUTS, rl_version, scaled_fp8
from support.reading import KEY
from support.sampling import Sampling
from support.tensors import cloned

UNREADABLE = {
    "bitsandbytes": (Linear4bit, r"attn\.qkv\.weight: quantised layers of bitsandbytes\.nn\.modules \(Linear4bit\)"),
    "nunchaku": (SVDQW4A4Linear, r"attn\.qkv: quantised layers of nunchaku\.models\.linear \(SVDQW4A4Linear\)"),
}
WHAT_TO_DO = r".*Load the same model from a safetensors \(fp8 too\) or GGUF file; or give base and RL model as two"

pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture(scope="module")
def weights(host):
    return tiny.weights_of(tiny.load(host, tiny.sd3_transformer()))


@pytest.fixture(scope="module")
def rl_weights(weights):
    return rl_version(weights)


@pytest.fixture
def folder(host, tmp_path):
    """A folder of the host's for models and adapters."""
    for name in ("diffusion_models", "loras"):
        host.folder_paths.add_model_folder_path(name, str(tmp_path), is_default=True)
    return tmp_path


@pytest.mark.parametrize("pack", UNREADABLE)
def test_an_adapter_is_refused(host, weights, folder, pack):
    layer, message = UNREADABLE[pack]
    model = with_layers(tiny.load_weights(host, weights), layer)
    save_file(tiny.sd3_lora(), folder / "lora.safetensors")
    with pytest.raises(ValueError, match=message + WHAT_TO_DO):
        run_node(host, "RLGAdapterLoader", model, "lora.safetensors", 1.0, 0.0, "")


def test_a_stock_lora_is_refused(host, weights):
    layer, message = UNREADABLE["bitsandbytes"]  # on Nunchaku's layers the stock loader finds nothing to patch
    model = with_layers(tiny.load_weights(host, weights), layer)
    with pytest.raises(ValueError, match=message + WHAT_TO_DO):
        guide(host, model, tiny.with_lora(host, model, tiny.sd3_lora()))


@pytest.mark.parametrize("pack", UNREADABLE)
def test_extraction_is_refused(host, weights, rl_weights, pack):
    layer, message = UNREADABLE[pack]
    pair = [with_layers(tiny.load_weights(host, own), layer) for own in (weights, rl_weights)]
    with pytest.raises(ValueError, match=message + WHAT_TO_DO):
        run_node(host, "RLGExtractAdapter", *pair, 4, 1.0, "extracted")


@pytest.mark.parametrize("pack", UNREADABLE)
def test_two_checkpoints_of_one_kind_are_guided(host, weights, rl_weights, pack):
    layer, settings = UNREADABLE[pack][0], Sampling(steps=2)
    model, rl_model = (with_layers(tiny.load_weights(host, own), layer) for own in (weights, rl_weights))
    base, rl = (settings.run(host, own) for own in (model, rl_model))
    assert torch.equal(settings.run(host, guide(host, model, rl_model, 0.0)), base)
    assert torch.equal(settings.run(host, guide(host, model, rl_model, 1.0)), rl)
    assert not torch.equal(base, rl)


def test_layers_that_say_their_shape_pair_with_plain_ones(host, weights, rl_weights):
    settings, model = Sampling(steps=2), with_layers(tiny.load_weights(host, weights), Linear4bit)
    rl_model = tiny.load_weights(host, rl_weights)
    expected = settings.run(host, rl_model)
    assert torch.equal(settings.run(host, guide(host, model, rl_model, 1.0)), expected)


def test_layers_without_a_weight_cannot_be_compared_with_plain_ones(host, weights, rl_weights):
    layer, message = UNREADABLE["nunchaku"]
    model = with_layers(tiny.load_weights(host, weights), layer)
    with pytest.raises(ValueError, match=message + WHAT_TO_DO):
        guide(host, model, tiny.load_weights(host, rl_weights))


def test_layers_that_scale_their_input_are_refused(host, weights, folder):
    tensors = LAYOUTS["nvfp4"](weights)[0]
    name = KEY.removeprefix("diffusion_model.")
    tensors[name.replace("weight", "pre_quant_scale")] = torch.full((128,), 2.0)
    save_file(cloned(tensors), folder / "smooth.safetensors")
    model = host.comfy.sd.load_diffusion_model(str(folder / "smooth.safetensors"))
    with pytest.raises(ValueError, match=rf"{KEY}: .*pre_quant_scale.*at another strength.*two checkpoints"):
        guide(host, model, tiny.with_lora(host, model, tiny.sd3_lora()))


def test_scales_that_the_host_does_not_know_are_refused(host, weights, folder):
    unmarked = scaled_fp8(weights)
    del unmarked["scaled_fp8"]
    save_file(unmarked, folder / "unmarked.safetensors")
    names = "diffusion_models/unmarked.safetensors", "diffusion_models/unmarked.safetensors"
    with pytest.raises(ValueError, match=r"unmarked.*does not know 10 scales of its quantised weights.*scale_weight"):
        run_node(host, "RLGCheckpointPairLoader", *names, "default", "off", 64)
