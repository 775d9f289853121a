"""Models in files, read weight by weight: what is read is what the host's loader makes of the file, in every layout."""

from __future__ import annotations

import gc
import json
import os
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import tiny
from support.architectures import ARCHITECTURES
from support.cells import EVERY, NOT_ON
from support.diffusers_models import diffusers_model
from support.guiding import guide, run_node
from support.host_models import NEVER_LOADED, host_weights
from support.quantised import LAYOUTS, is_quantised, save
from support.sampling import Sampling
from support.tensors import cloned, rms

RANK = 4
CHECKPOINT = "model.diffusion_model."
SCALES = ("scale_weight", "weight_scale")
pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture(scope="module")
def diffusers_weights() -> dict[str, torch.Tensor]:
    return cloned(tiny.sd3_transformer(qk_norm="rms_norm").state_dict())


@pytest.fixture(scope="module")
def weights(host, diffusers_weights) -> dict[str, torch.Tensor]:
    """The same in the host's layout."""
    return tiny.weights_of(tiny.load_weights(host, diffusers_weights))


@pytest.fixture
def folder(host, tmp_path) -> Path:
    """A folder of the host's for models, and for what is saved."""
    before = host.folder_paths.get_output_directory()
    roots = (
        host.folder_paths.folder_names_and_paths["diffusion_models"][0],
        list(host.folder_paths.get_folder_paths("diffusion_models")),
    )
    host.folder_paths.add_model_folder_path("diffusion_models", str(tmp_path), is_default=True)
    host.folder_paths.add_model_folder_path("loras", str(tmp_path / "loras"))
    host.folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    host.folder_paths.set_output_directory(before)
    roots[0][:] = roots[1]
    host.folder_paths.filename_list_cache.clear()


def assert_read_as_loaded(host, path: Path) -> None:
    """Each weight that is read off the file is the loaded model's, and what is known of the model is the same."""
    compat = host.module("nodes.host.compat")
    model = host.module("nodes.host.models.checkpoints").load_model(path, {})
    with host.module("nodes.host.models.streamed").streamed(path) as streamed:
        outline = streamed.model
        assert type(outline.model) is type(model.model)
        assert compat.weight_shapes(outline.model) == compat.weight_shapes(model.model)
        assert compat.compute_dtype(outline) == compat.compute_dtype(model)
        for name, _ in model.model.diffusion_model.named_parameters():
            if compat.is_quantisation_key(name):
                continue
            key = f"diffusion_model.{name}"
            held, expected = model.model.diffusion_model.get_parameter(name).dtype, compat.unpatched_weight(model, key)
            # 0.3.75 rounds to fp8 what a scaled file keeps in full
            rounded = held == torch.float8_e4m3fn and not is_quantised(name, expected)
            rounding = {"rtol": 2**-4, "atol": 2**-10} if rounded else {"rtol": 1e-3, "atol": 0}
            assert torch.allclose(streamed.weight(key), expected, **rounding), key
            assert compat.is_rounded_when_patched(outline, key) == compat.is_rounded_when_patched(model, key)
        assert all(value.is_meta for value in outline.model.diffusion_model.parameters() if value.ndim > 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["host", "diffusers", "checkpoint", "wrapped"])
def test_a_weight_is_read_as_the_host_loads_it(host, folder, weights, diffusers_weights, layout, dtype):
    prefix = {"checkpoint": CHECKPOINT, "wrapped": "module._orig_mod."}.get(layout, "")
    tensors = diffusers_weights if layout == "diffusers" else weights
    others = (
        {"first_stage_model.decoder.conv_in.weight": torch.full((2, 2), float("nan"))} if "model." in prefix else {}
    )
    save_file({prefix + name: value.to(dtype) for name, value in tensors.items()} | others, folder / "x.safetensors")
    assert_read_as_loaded(host, folder / "x.safetensors")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_quantised_weights_are_read_as_their_layers_compute(host, folder, weights, layout):
    assert_read_as_loaded(host, save(weights, layout, folder / "x.safetensors"))


def test_a_unet_is_read_as_the_host_loads_it(host, folder):
    save_file(tiny.unet_weights(host), folder / "x.safetensors")
    assert_read_as_loaded(host, folder / "x.safetensors")


@pytest.mark.parametrize("layout", ["host", "diffusers", "checkpoint"])
def test_a_buffer_is_read_in_pieces(host, folder, weights, diffusers_weights, layout):
    path = folder / write(layout, weights, diffusers_weights, folder / "x")
    with host.module("nodes.host.models.streamed").streamed(path) as streamed:
        whole = []
        streamed.recording.value = lambda result, sources: whole.append(result)
        pieces = list(streamed.buffers()["pos_embed"](1000))
    expected = weights["pos_embed"].flatten()
    assert not whole and {len(piece) for piece in pieces[:-1]} == {1000}
    assert torch.equal(torch.cat(pieces), expected)


def test_values_that_were_read_are_gone_once_they_are_dropped(host, folder, diffusers_weights):
    """Without waiting for Python to collect garbage: weights are large."""
    save_file(diffusers_weights, folder / "x.safetensors")
    with host.module("nodes.host.models.streamed").streamed(folder / "x.safetensors") as streamed:
        read, file = [], streamed.sources[next(iter(streamed.sources))].file
        original = type(file).read

        def watched(self, name):
            value = original(self, name)
            read.append(weakref.ref(value))
            return value

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(type(file), "read", watched)
            gc.collect()
            gc.disable()
            try:
                streamed.weight("diffusion_model.joint_blocks.0.x_block.attn.qkv.weight")
                assert len(read) >= 3 and not [value for value in read if value() is not None]
            finally:
                gc.enable()


LOADED = [
    (name, layout)
    for name, own in ARCHITECTURES.items()
    for layout in ("host", "diffusers")
    if not own.shrunk and own.cls and (layout == "host" or own.host is None)
]
"""Every architecture that the hosts load at this size, and its layouts."""


@pytest.mark.parametrize("name, layout", LOADED)
def test_every_architecture_has_all_its_weights(host, name, layout):
    """By names and shapes alone, as the widths of some are those of the public models."""
    reason = NOT_ON.get((name, EVERY), {}).get(os.environ.get("RLG_HOST_VERSION"))
    if reason:
        pytest.skip(reason)
    model = diffusers_model(ARCHITECTURES[name])
    tensors = model.state_dict() if layout == "diffusers" else host_weights(ARCHITECTURES[name], model)
    blank = {key: torch.empty(value.shape, device="meta") for key, value in tensors.items()}
    outline, converted, _ = host.module("nodes.host.models.streamed")._structure(Path(name), blank, {})
    shapes = {key: value.shape for key, value in outline.model.diffusion_model.named_parameters()}
    assert shapes.keys() - converted.keys() <= NEVER_LOADED
    assert all(converted[key].shape == shape for key, shape in shapes.items() if key in converted)


# RLG Extract Adapter From Files


def extract(host, base, rl, rank=RANK, energy=1.0, prefix="loras/tiny"):
    node = host.classes["RLGExtractFromFiles"]
    names = {"base_name": f"diffusion_models/{base}", "rl_name": f"diffusion_models/{rl}"}
    answer = node.validate_inputs(**names)
    if answer is not True:  # where a graph with these names is refused
        raise ValueError(answer)
    return run_node(host, "RLGExtractFromFiles", **names, rank=rank, energy=energy, filename_prefix=prefix)


def in_parts(weights, folder: Path) -> None:
    folder.mkdir()
    index = {}
    for part in range(2):
        file = f"diffusion_pytorch_model-{part + 1:05}-of-00002.safetensors"
        own = dict(list(weights.items())[part::2])
        save_file(own, folder / file)
        index |= dict.fromkeys(own, file)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def write(layout: str, weights, diffusers_weights, path: Path) -> str:
    """Writes the model in a layout; returns its name below the folder."""
    if layout == "parts":
        in_parts(diffusers_weights, path)
        return path.name
    path = path.with_suffix(".safetensors")
    if layout in LAYOUTS:
        save(weights, layout, path)
    else:
        tensors = diffusers_weights if layout == "diffusers" else weights
        prefix = CHECKPOINT if layout == "checkpoint" else ""
        dtype = torch.bfloat16 if layout == "bfloat16" else torch.float32
        save_file({prefix + name: value.to(dtype) for name, value in tensors.items()}, path)
    return path.name


def fine_tuned(weights):
    """`weights` in diffusers' layout with changes of rank 4 in the attention, and of some biases and norms."""
    generator = torch.Generator().manual_seed(5)
    tuned = cloned(weights)
    for name, value in tuned.items():
        if ".attn." in name and value.ndim == 2:
            up, down = (torch.randn(size, RANK, generator=generator) * 0.1 for size in value.shape)
            value += up @ down.T
        elif ".attn." in name or name == "norm_out.linear.bias":
            value += torch.randn(value.shape, generator=generator) * 0.01
    return tuned


@pytest.fixture(scope="module")
def rl_diffusers_weights(diffusers_weights):
    return fine_tuned(diffusers_weights)


@pytest.fixture(scope="module")
def rl_weights(host, rl_diffusers_weights):
    return tiny.weights_of(tiny.load_weights(host, rl_diffusers_weights))


def values_in(host, path: Path) -> dict[str, torch.Tensor]:
    """The weights in a file or in parts as the host holds them: dequantised, in float32, without what names begin with.

    0.3.75 holds whatever else a linear layer of a scaled file has in 8 bits too.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    tensors = {name.removeprefix(CHECKPOINT): t for file in files for name, t in load_file(file).items()}
    scales = {name.replace(end, "weight"): t for name, t in tensors.items() for end in SCALES if name.endswith(end)}
    is_rounded = "scaled_fp8" in tensors and hasattr(host.comfy.ops, "scaled_fp8_ops")
    values = {}
    for name, value in tensors.items():
        if not name.endswith((*SCALES, "scaled_fp8")):
            weight = tensors.get(f"{name.rpartition('.')[0]}.weight")
            narrow = is_rounded and weight is not None and weight.ndim == 2
            values[name] = (value.to(torch.float8_e4m3fn) if narrow else value).float() * scales.get(name, 1.0)
    return values


PAIRS = [
    ("diffusers", "diffusers"),
    ("diffusers", "checkpoint"),
    ("plain", "parts"),
    ("parts", "bfloat16"),
    ("scaled_fp8", "diffusers"),
    ("scaled_fp8", "described_fp8"),
]


@pytest.fixture
def files(folder, weights, diffusers_weights, rl_weights, rl_diffusers_weights):
    """Writes a base and its RL version, each in a layout."""

    def written(layout, rl_layout):
        base = write(layout, weights, diffusers_weights, folder / "base")
        return base, write(rl_layout, rl_weights, rl_diffusers_weights, folder / "rl")

    return written


@pytest.mark.parametrize("layout, rl_layout", PAIRS)
def test_the_difference_is_that_of_the_loaded_models(host, folder, files, layout, rl_layout):
    base, rl = files(layout, rl_layout)
    lora_name, report = extract(host, base, rl)
    ours, theirs = values_in(host, folder / base), values_in(host, folder / rl)
    buffer = "pos_embed" if "pos_embed" in theirs else "pos_embed.pos_embed"
    theirs[buffer] = ours.get("pos_embed", ours.get("pos_embed.pos_embed"))  # rounded alike
    model, rl_model = tiny.load_weights(host, ours), tiny.load_weights(host, theirs)
    extraction = host.module("nodes.host.models.extraction")
    found = extraction.extract(model, rl_model, RANK, 1.0)
    assert f"Of {found.compared} weights {len(found.terms)} differ" in report
    assert float(report.split("difference: ")[1].split("%")[0]) == pytest.approx(100 * found.kept_in_all(), abs=0.01)
    extracted = run_node(host, "RLGAdapterLoader", model, lora_name, 1.0, 0.0, "")[0]
    settings = Sampling(steps=3)
    expected = settings.run(host, extraction.with_terms(model, found.terms))
    effect = rms(expected - settings.run(host, model))
    assert rms(settings.run(host, extracted) - expected) < 0.05 * effect and effect > 1e-2


def test_a_change_of_low_rank_is_recovered(host, folder, files):
    base, rl = files("checkpoint", "parts")
    lora_name, report = extract(host, base, rl)
    assert float(report.split("difference: ")[1].split("%")[0]) > 99.999
    load = host.module("nodes.host.models.checkpoints").load_model
    model, rl_model = load(folder / base, {}), load(folder / rl, {})
    extracted = run_node(host, "RLGAdapterLoader", model, lora_name, 1.0, 0.0, "")[0]
    settings = Sampling(steps=3)
    two = settings.run(host, guide(host, model, rl_model, 1.5))
    assert (settings.run(host, guide(host, model, extracted, 1.5)) - two).abs().max() < 1e-3


def test_a_file_outside_the_folder_of_adapters_is_named_by_its_path(host, folder, files):
    lora_name, report = extract(host, *files("plain", "plain"), prefix="elsewhere/tiny")
    assert Path(lora_name).is_file() and report.startswith(f"Saved {lora_name}\n")


def test_energy_lowers_the_rank(host, files):
    _, report = extract(host, *files("plain", "plain"), rank=16, energy=0.5)
    ranks = [int(line.split("rank ")[1].split(",")[0]) for line in report.splitlines() if ": rank " in line]
    assert ranks and max(ranks) < 3 * RANK


def test_the_fingerprint_follows_both_files(host, folder, files):
    base, rl = (f"diffusion_models/{name}" for name in files("plain", "parts"))
    node = host.classes["RLGExtractFromFiles"]
    seen = [node.fingerprint_inputs(base, rl, rank=4)]
    for file in (folder / "base.safetensors", next((folder / "rl").glob("*-00002-*"))):
        file.write_bytes(file.read_bytes())
        seen.append(node.fingerprint_inputs(base, rl, rank=4))
    assert len({*seen}) == 3


# Refusals


def truncated(folder, rl_weights):
    data = (folder / "rl.safetensors").read_bytes()
    (folder / "rl.safetensors").write_bytes(data[: len(data) // 2])


def without_a_weight(folder, rl_weights):
    rest = {name: value for name, value in rl_weights.items() if not name.endswith("1.x_block.mlp.fc2.weight")}
    save_file(rest, folder / "rl.safetensors")


def of_another_architecture(folder, rl_weights):
    layer = {f"double_blocks.0.{name}": torch.zeros(4, 4) for name in ("img_attn.qkv.weight", "txt_mlp.0.weight")}
    save_file(layer, folder / "rl.safetensors")


def deeper(folder, rl_weights):
    save_file(cloned(tiny.sd3_transformer(depth=3, qk_norm="rms_norm").state_dict()), folder / "rl.safetensors")


def not_a_number(folder, rl_weights):
    bad = cloned(rl_weights)
    bad["joint_blocks.1.x_block.mlp.fc1.weight"][0, 0] = float("nan")
    save_file(bad, folder / "rl.safetensors")


def a_lora(folder, rl_weights):
    pair = {"transformer.x.lora_A.weight": torch.zeros(4, 8), "transformer.x.lora_B.weight": torch.zeros(8, 4)}
    save_file(pair, folder / "rl.safetensors")


def identical(folder, rl_weights):
    shutil.copy(folder / "base.safetensors", folder / "rl.safetensors")


def with_another_buffer(folder, rl_weights):
    save_file(rl_weights | {"pos_embed": rl_weights["pos_embed"] + 1}, folder / "rl.safetensors")


@pytest.mark.parametrize(
    "harm, message",
    [
        (truncated, r"rl.safetensors: not a whole safetensors file"),
        (without_a_weight, r"rl.safetensors: 1 weights are missing, first joint_blocks.1.x_block.mlp.fc2.weight"),
        (of_another_architecture, r"rl.safetensors: ComfyUI (knows no|cannot load)"),
        (deeper, r"base.safetensors and rl.safetensors: .* differ in weights"),
        (not_a_number, r"rl.safetensors: joint_blocks.1.x_block.mlp.fc1.weight has 1 NaN or infinite values"),
        (a_lora, r"rl.safetensors: ComfyUI knows no diffusion model"),
        (identical, r"base.safetensors and rl.safetensors: .* identical: there is no difference"),
        (with_another_buffer, r"changes buffers, which no adapter can hold: pos_embed"),
    ],
)
def test_what_is_no_pair_of_whole_models_is_refused(host, folder, files, rl_weights, harm, message):
    names = files("plain", "plain")
    harm(folder, rl_weights)
    with pytest.raises(ValueError, match=message):
        extract(host, *names)
    assert not [*folder.rglob("tiny*")]


def test_interrupting_stops_it(host, folder, files):
    names, management = files("plain", "plain"), host.comfy.model_management
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        extract(host, *names)
    assert not [*folder.rglob("tiny*")]


@pytest.mark.parametrize("name", ["", "nothing.safetensors", "checkpoints/../../x.safetensors", 5])
def test_names_of_no_file_are_refused(host, name):
    assert "no model of that name" in host.classes["RLGExtractFromFiles"].validate_inputs(name, name)
