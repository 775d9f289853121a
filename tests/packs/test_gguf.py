"""ComfyUI-GGUF: models that its loader reads from files of several types are read, guided and paired like any other."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import compatibility, known_packs, reading, tiny
from support.compatibility import Found, Pack, Verdict
from support.guiding import guide, run_node
from support.quantised import rl_version
from support.sampling import Sampling
from support.tensors import largest

PACK = "ComfyUI-GGUF"

if known_packs.folder_of(PACK) is None:
    pytest.skip("RLG_PACKS names no folder with ComfyUI-GGUF in it, or RLG_PACK another pack", allow_module_level=True)
pytest.importorskip("gguf", reason="ComfyUI-GGUF needs the package gguf")

from support import gguf_file  # noqa: E402, as it needs that package

TYPES = ["Q8_0", "Q5_1", "Q4_0", "BF16"]
PAIRS = [("Q8_0", "Q8_0"), ("Q8_0", "Q4_0"), ("Q4_0", "BF16"), ("Q8_0", "plain"), ("plain", "Q4_0")]

FOLDERS = ("loras", "unet", "unet_gguf", "diffusion_models")

pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture(scope="module")
def weights(host):
    return tiny.weights_of(tiny.load(host, tiny.sd3_transformer()))


@pytest.fixture(scope="module")
def rl_weights(weights):
    return rl_version(weights)


@pytest.fixture(scope="module", autouse=True)
def pack(load_pack):
    load_pack(PACK)


@pytest.fixture(scope="module", autouse=True)
def leave(request):
    """Leaves for the page what all tests of this file together have found."""
    before = request.session.testsfailed
    yield
    if request.config.option.keyword:
        return
    failed = request.session.testsfailed > before
    verdict = Verdict("wrong", "its tests have failed") if failed else Verdict("right")
    version = known_packs.version_of(known_packs.folder_of(PACK))
    found = Found("loader", "UnetLoaderGGUF", {"": verdict})
    compatibility.leave(os.environ.get("RLG_HOST_VERSION", "unknown"), PACK, Pack(version, (found,)), {found.node})


@pytest.fixture
def folder(host, pack, tmp_path):
    """The host's only folder for models, adapters and what is saved."""
    known, output = host.folder_paths.folder_names_and_paths, host.folder_paths.get_output_directory()
    before = dict(known)
    known |= {name: ([str(tmp_path)], known[name][1]) for name in before if name in FOLDERS}
    host.folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    known |= before
    host.folder_paths.set_output_directory(output)


@pytest.fixture
def load(host, folder):
    """Loads weights as a MODEL, by the pack's loader from a file of a type."""

    def loaded(weights, kind):
        if kind == "plain":
            return tiny.load_weights(host, weights)
        file = folder / f"{len(list(folder.iterdir()))}.gguf"  # a new one each time: the pack leaves weights in files
        gguf_file.write(weights, file, kind)
        return host.classes["UnetLoaderGGUF"]().load_unet(file.name)[0]

    return loaded


@pytest.mark.parametrize("kind", TYPES)
def test_a_weight_reads_as_its_layer_computes(host, weights, load, kind):
    model = load(weights, kind)
    reading.assert_read_as_computed(host, model)
    assert largest(reading.unpatched(host, model), weights[reading.KEY.removeprefix("diffusion_model.")]) > 1e-4


@pytest.mark.parametrize("kind", TYPES)
def test_a_weight_reads_without_the_patches_in_memory(host, weights, load, kind):
    reading.assert_read_without_patches(host, load(weights, kind))


@pytest.mark.parametrize("kind", TYPES)
def test_the_report_tells_the_size_of_the_change(host, weights, load, folder, kind):
    reading.assert_size_reported(host, load(weights, kind), folder)


@pytest.mark.parametrize("kind", TYPES)
def test_an_adapter_is_guided_exactly(host, weights, load, kind):
    reading.assert_adapter_guided(host, load(weights, kind))
    reading.assert_patched_model_met(host, load(weights, kind), load(weights, kind))


@pytest.mark.parametrize("kind", TYPES)
def test_dora_is_guided_and_saved_as_on_plain_weights(host, weights, load, folder, kind):
    reading.assert_dora_guided(host, load(weights, kind), folder)
    reading.assert_dora_saved(host, load(weights, kind), folder)


@pytest.mark.parametrize("kind", TYPES)
def test_an_adapter_is_extracted_as_on_plain_weights(host, weights, load, kind):
    reading.assert_adapter_extracted(host, load(weights, kind))


@pytest.mark.parametrize(("kind", "rl_kind"), PAIRS)
def test_two_checkpoints_of_any_type(host, weights, rl_weights, load, kind, rl_kind):
    model, rl_model = load(weights, kind), load(rl_weights, rl_kind)
    reading.assert_two_guided(host, model, rl_model, load(rl_weights, rl_kind))
    reading.assert_difference_extracted(host, model, rl_model)


@pytest.mark.parametrize("compress", ["off", "low-rank"])
def test_a_base_in_gguf_is_paired_with_a_checkpoint(host, weights, rl_weights, load, folder, compress):
    base = load(weights, "Q8_0")
    save_file(rl_weights, folder / "rl.safetensors")
    host.folder_paths.filename_list_cache.clear()
    (name,) = (name for name in host.module("nodes.host.models.files").model_names() if name.endswith(".gguf"))
    inputs = {"base_name": name, "rl_name": "diffusion_models/rl.safetensors", "weight_dtype": "default"}
    model, rl_model, *_ = run_node(host, "RLGCheckpointPairLoader", **inputs, compress=compress, rank=48)
    settings = Sampling(steps=2)
    assert torch.equal(settings.run(host, model), settings.run(host, base))
    expected = settings.run(host, tiny.load_weights(host, rl_weights))
    tolerance = 1e-5 if compress == "off" else 0.3 * largest(settings.run(host, base), expected)
    assert largest(settings.run(host, guide(host, model, rl_model, 1.0)), expected) < tolerance


def test_an_adapter_is_extracted_from_a_base_in_gguf(host, weights, rl_weights, load, folder):
    base = load(weights, "Q8_0")
    save_file(rl_weights, folder / "rl.safetensors")
    names = {"base_name": "diffusion_models/0.gguf", "rl_name": "diffusion_models/rl.safetensors"}
    lora_name, _ = run_node(host, "RLGExtractFromFiles", **names, rank=8, energy=1.0, filename_prefix="x")
    found = host.module("nodes.host.models.extraction").extract(base, tiny.load_weights(host, rl_weights), 8, 1.0)
    saved = load_file(folder / lora_name)
    key = reading.KEY.removesuffix(".weight")
    product = saved[f"{key}.lora_up.weight"] @ saved[f"{key}.lora_down.weight"]
    assert largest(product, found.terms[reading.KEY].delta()) < 1e-4
