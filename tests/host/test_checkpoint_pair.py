"""Load RLG Checkpoint Pair: real files in the host's folders, loaded, shared, guided, compressed, refused."""

from __future__ import annotations

import json
import logging
import math
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from support import tiny
from support.guiding import guide, run_node
from support.sampling import Sampling, counted_calls
from support.tensors import cloned, rms

CHECKPOINT = "model.diffusion_model."
pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture(scope="module")
def folders(host, tmp_path_factory) -> SimpleNamespace:
    """Two model folders of the host's, with a base and RL-tuned versions of it in them."""
    root = tmp_path_factory.mktemp("models")
    found = {}
    for name in ("checkpoints", "diffusion_models"):
        folder = root / name
        (folder / "sub").mkdir(parents=True)
        host.folder_paths.add_model_folder_path(name, str(folder), is_default=True)
        found[name] = folder
    return SimpleNamespace(**found)


@pytest.fixture(scope="module")
def base_weights() -> dict[str, torch.Tensor]:
    return cloned(tiny.sd3_transformer().state_dict())


@pytest.fixture(scope="module")
def pair_files(folders, base_weights) -> tuple[str, str]:
    """A base in diffusers layout, and an RL version whose attention weights of rank 4 and one norm and bias differ."""
    save_file(base_weights, folders.diffusion_models / "base.safetensors")
    save_file(fine_tuned(base_weights), folders.diffusion_models / "sub" / "rl.safetensors")
    return "diffusion_models/base.safetensors", "diffusion_models/sub/rl.safetensors"


def fine_tuned(weights, rank=4, seed=5):
    generator = torch.Generator().manual_seed(seed)
    tuned = cloned(weights)
    for name, value in tuned.items():
        if ".attn.to_" in name and name.endswith(".weight"):
            up, down = (torch.randn(size, rank, generator=generator) * 0.1 for size in value.shape)
            value += up @ down.T
    tuned["transformer_blocks.0.attn.to_q.bias"] += 0.05
    tuned["proj_out.bias"] += 0.01
    return tuned


def load(host, base, rl, weight_dtype="default", compress="off", rank=64):
    inputs = {"base_name": base, "rl_name": rl, "weight_dtype": weight_dtype, "compress": compress, "rank": rank}
    return run_node(host, "RLGCheckpointPairLoader", **inputs)


def least_kept(report):
    return float(report.split("least ")[1].split("%")[0]) / 100


def stock(host, path):
    return host.comfy.sd.load_diffusion_model(str(path))


def pointers(model):
    return {name: weight.data_ptr() for name, weight in model.model.diffusion_model.named_parameters()}


# Names


def test_names_are_the_same_on_every_system(host, folders, pair_files):
    names = {i.id: i for i in host.classes["RLGCheckpointPairLoader"].define_schema().inputs}["base_name"].options
    assert {*pair_files} <= {*names}
    assert not any("\\" in name for name in names)


@pytest.mark.parametrize(
    "spelling", ["sub/rl.safetensors", r"sub\rl.safetensors", r"diffusion_models\sub\rl.safetensors"]
)
def test_plain_and_windows_names_are_found(host, folders, pair_files, spelling):
    expected = folders.diffusion_models / "sub" / "rl.safetensors"
    assert host.module("nodes.host.models.files").model_path(spelling) == expected


def test_a_plain_name_in_both_folders_is_refused(host, folders, pair_files):
    twin = folders.checkpoints / "base.safetensors"
    twin.write_bytes(b"twin")
    try:
        message = host.classes["RLGCheckpointPairLoader"].validate_inputs("base.safetensors", pair_files[1])
        assert "checkpoints/base.safetensors or diffusion_models/base.safetensors" in message
        assert host.classes["RLGCheckpointPairLoader"].validate_inputs(*pair_files) is True
    finally:
        twin.unlink()


@pytest.mark.parametrize("name", ["", "nothing.safetensors", "checkpoints/../../x.safetensors", "checkpoints"])
def test_names_of_no_file_are_refused(host, folders, pair_files, name):
    assert "no model of that name" in host.classes["RLGCheckpointPairLoader"].validate_inputs(name, pair_files[1])


def test_fingerprint_follows_the_files(host, folders, pair_files):
    node = host.classes["RLGCheckpointPairLoader"]
    before = node.fingerprint_inputs(*pair_files, compress="off")
    assert before == node.fingerprint_inputs(*pair_files, compress="off")
    path = folders.diffusion_models / "sub" / "rl.safetensors"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert node.fingerprint_inputs(*pair_files, compress="off") != before


# Two models


def test_both_models_are_the_stock_loaders_to_the_bit(host, folders, pair_files):
    model, rl_model, *_ = load(host, *pair_files)
    settings = Sampling(steps=3)
    for loaded, name in ((model, "base"), (rl_model, "sub/rl")):
        expected = settings.run(host, stock(host, folders.diffusion_models / f"{name}.safetensors"))
        assert torch.equal(settings.run(host, loaded), expected)


def test_identical_weights_are_held_once(host, folders, pair_files):
    model, rl_model, _, _, report = load(host, *pair_files)
    ours, theirs = pointers(model), pointers(rl_model)
    shared = {name for name in ours if ours[name] == theirs[name]}
    different = {
        name
        for name, value in model.model.diffusion_model.named_parameters()
        if not torch.equal(value, rl_model.model.diffusion_model.get_parameter(name))
    }
    assert shared == ours.keys() - different and different and shared
    assert "of them the same in both and held once" in report


def test_a_patch_on_one_model_leaves_the_other_alone(host, folders, pair_files):
    model, rl_model, *_ = load(host, *pair_files)
    settings = Sampling(steps=2)
    plain = settings.run(host, rl_model)
    patched = model.clone()
    name = "final_layer.linear.weight"
    key = f"diffusion_model.{name}"
    assert pointers(model)[name] == pointers(rl_model)[name]
    patched.add_patches({key: ("diff", (torch.ones_like(host.comfy.utils.get_attr(model.model, key)),))})
    assert not torch.equal(settings.run(host, patched), settings.run(host, model))
    host.comfy.model_management.unload_all_models()
    assert torch.equal(settings.run(host, rl_model), plain)


def test_guidance_extrapolates_between_the_two(host, folders, pair_files):
    model, rl_model, *_ = load(host, *pair_files)
    settings = Sampling(steps=1, cfg=1.0)
    base, rl = settings.run(host, model), settings.run(host, rl_model)
    assert torch.equal(settings.run(host, guide(host, model, rl_model, 0.0)), base)
    assert (settings.run(host, guide(host, model, rl_model, 2.5)) - (base + 2.5 * (rl - base))).abs().max() < 1e-4
    assert rms(rl - base) > 5e-3


def test_reload_gives_the_same_weights(host, folders, pair_files):
    _, rl_model, *_ = load(host, *pair_files)
    factory, arguments = getattr(rl_model, "cached_patcher_init", (None, None))
    again = factory(*arguments)
    for name, weight in rl_model.model.diffusion_model.named_parameters():
        assert torch.equal(weight, again.model.diffusion_model.get_parameter(name))


@pytest.mark.parametrize("weight_dtype", ["fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"])
@pytest.mark.parametrize("layout", ["diffusion_models", "checkpoints"])
def test_weight_dtype_is_honoured(host, folders, pair_files, base_weights, weight_dtype, layout):
    names = pair_files
    if layout == "checkpoints":
        names = checkpoint_files(host, folders, base_weights)
    model, rl_model, *_ = load(host, *names, weight_dtype=weight_dtype)
    expected = host.module("nodes.host.models.checkpoints").WEIGHT_DTYPES[weight_dtype]["dtype"]
    for loaded in (model, rl_model):
        assert loaded.model.diffusion_model.final_layer.linear.weight.dtype == expected
    Sampling(steps=1).run(host, rl_model)


# Checkpoints: other parts


def checkpoint_files(host, folders, base_weights, others: dict | None = None, rl_others: dict | None = None):
    base, rl = folders.checkpoints / "ckpt_base.safetensors", folders.checkpoints / "ckpt_rl.safetensors"
    for path, weights, extra in ((base, base_weights, others), (rl, fine_tuned(base_weights), rl_others)):
        in_host_layout = tiny.weights_of(tiny.load_weights(host, weights))
        save_file({CHECKPOINT + k: v for k, v in in_host_layout.items()} | (extra or {}), path)
    return f"checkpoints/{base.name}", f"checkpoints/{rl.name}"


def tiny_vae(host):
    """The host's TAESD for 16 channels, random weights: 2 M parameters."""
    import comfy.taesd.taesd

    torch.manual_seed(2)
    weights = comfy.taesd.taesd.TAESD(latent_channels=16).state_dict()
    return {f"first_stage_model.{name}": value.detach().clone() for name, value in weights.items()}


def clip_shapes() -> dict[str, tuple[int, ...]]:
    """The weights of the smallest text encoder that a checkpoint of SD3 may hold."""
    from comfy import ops
    from comfy.sd1_clip import SDClipModel

    model = SDClipModel(
        device="meta", dtype=torch.float16, model_options={"custom_operations": ops.disable_weight_init}
    )
    return {f"text_encoders.clip_l.{name}": tuple(value.shape) for name, value in model.state_dict().items()}


def test_clip_and_vae_come_from_the_base_alone(host, folders, base_weights):
    text_encoder = "text_encoders.clip_l.transformer.text_model.final_layer_norm.weight"
    parts = tiny_vae(host) | {text_encoder: torch.ones(768)}
    garbage = {"first_stage_model.decoder.conv_in.weight": torch.full((3,), float("nan")), text_encoder: torch.zeros(1)}
    names = checkpoint_files(host, folders, base_weights, parts, garbage)
    rest = {name: shape for name, shape in clip_shapes().items() if name != text_encoder}
    with_holes(folders.checkpoints / "ckpt_base.safetensors", rest)
    _, rl_model, clip, vae, _ = load(host, *names)
    assert vae.decode(Sampling(steps=1).run(host, rl_model)).shape == (1, 64, 64, 3)
    assert "l" in clip.tokenize("a cat")
    assert torch.equal(
        clip.cond_stage_model.clip_l.transformer.text_model.final_layer_norm.weight.float(), torch.ones(768)
    )


@pytest.mark.parametrize(
    "broken, part, message",
    [
        (
            {"text_encoders.clip_l.transformer.text_model.final_layer_norm.weight": torch.ones(768)},
            "clip",
            "not whole, 1",
        ),
        (
            {"text_encoders.clip_l.transformer.text_model.final_layer_norm.weight": torch.ones(3)},
            "clip",
            "cannot be load",
        ),
        ({"first_stage_model.decoder.conv_in.weight": torch.ones(3)}, "vae", "cannot be loaded"),
        ("first_stage_model.decoder", "vae", "not whole, "),
    ],
)
def test_a_broken_part_says_so_on_use_and_not_before(host, folders, base_weights, broken, part, message):
    """A base whose VAE or CLIP nobody uses is usable."""
    if isinstance(broken, str):
        vae = tiny_vae(host)
        broken = {name: value for name, value in vae.items() if name != next(one for one in vae if ".3." in one)}
    _, rl_model, clip, vae, _ = load(host, *checkpoint_files(host, folders, base_weights, broken))
    Sampling(steps=1).run(host, rl_model)
    with pytest.raises(ValueError, match=rf"ckpt_base.safetensors: its .*{message}.*Load one with"):
        if part == "vae":
            host.nodes.VAEDecode().decode(vae, {"samples": torch.zeros(1, 16, 8, 8)})
        else:
            host.nodes.CLIPTextEncode().encode(clip, "a cat")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident memory off /proc")
def test_other_parts_of_the_rl_file_are_never_read(host, folders, base_weights):
    names = checkpoint_files(host, folders, base_weights)
    path = folders.checkpoints / "ckpt_rl.safetensors"
    with_holes(path, {"text_encoders.t5xxl.big": (1 << 30,)})

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    load(host, *names)
    assert resident() - before < 1 << 30
    path.unlink()


def with_holes(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Appends tensors of zeros to a file, in float16, as a hole that takes no disk."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    end = len(body)
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)
    os.truncate(path, 8 + len(encoded) + end)


def test_absent_parts_say_so_on_use_and_not_before(host, folders, pair_files):
    _, _, clip, vae, _ = load(host, *pair_files)
    assert not hasattr(vae, "is_dynamic") and not hasattr(clip, "outputs")  # what the host's caches ask
    with pytest.raises(ValueError, match=r"base.safetensors holds no VAE. Load one with Load VAE"):
        host.nodes.VAEDecode().decode(vae, {"samples": torch.zeros(1, 16, 8, 8)})
    with pytest.raises(ValueError, match="holds no text encoder"):
        host.nodes.CLIPTextEncode().encode(clip, "a cat")


# Low rank


def test_compress_keeps_one_copy_of_the_weights(host, folders, pair_files):
    model, rl_model, _, _, report = load(host, *pair_files, compress="low-rank", rank=4)
    assert rl_model.model is model.model
    expected = stock(host, folders.diffusion_models / "sub" / "rl.safetensors")
    settings = Sampling(steps=4)
    rl = settings.run(host, expected)
    assert (settings.run(host, rl_model) - rl).abs().max() < 1e-4
    assert (settings.run(host, guide(host, model, rl_model, 1.0)) - rl).abs().max() < 1e-4
    assert rms(rl - settings.run(host, model)) > 1e-2
    assert "attn.qkv.weight: rank 12, kept 100.0" in report and "attn.proj.weight: rank 4, kept 100.0" in report


def test_compressed_pairs_run_in_one_batch(host, folders, pair_files):
    model, rl_model, *_ = load(host, *pair_files, compress="low-rank", rank=4)
    settings, model_on = Sampling(steps=3), guide(host, model, rl_model, 2.0)
    settings.run(host, model_on)  # the first run verifies
    with counted_calls(model_on) as calls:
        latent = settings.run(host, model_on)
    assert calls == [4] * 3
    two = load(host, *pair_files)
    assert (settings.run(host, guide(host, two[0], two[1], 2.0)) - latent).abs().max() < 2e-4


def test_compress_takes_the_difference_before_fp8_rounds_it(host, folders, pair_files):
    model, _, _, _, report = load(host, *pair_files, weight_dtype="fp8_e4m3fn", compress="low-rank", rank=4)
    assert model.model.diffusion_model.final_layer.linear.weight.dtype == torch.float8_e4m3fn
    assert least_kept(report) > 0.99999


# Refusals


def refusal(host, base, rl, **options):
    with pytest.raises(ValueError) as caught:
        load(host, base, rl, **options)
    assert type(caught.value).__name__ in ("AdapterError", "PairError")
    return str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_truncated_files_are_refused_by_name(host, folders, pair_files, keep):
    data = (folders.diffusion_models / "base.safetensors").read_bytes()
    keep = int(keep * len(data)) if isinstance(keep, float) else keep
    (folders.diffusion_models / "short.safetensors").write_bytes(data[:keep])
    names = (pair_files[0], "diffusion_models/short.safetensors")
    message = refusal(host, *names)
    assert "short.safetensors: not a whole safetensors file" in message
    assert host.classes["RLGCheckpointPairLoader"].validate_inputs(*names) == message


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin"])
def test_pickles_are_refused(host, folders, pair_files, base_weights, suffix):
    torch.save(base_weights, folders.diffusion_models / f"old{suffix}")
    names = (f"diffusion_models/old{suffix}", pair_files[1])
    assert "pickles" in (message := refusal(host, *names))
    assert host.classes["RLGCheckpointPairLoader"].validate_inputs(*names) == message


def damaged(folders, name, weights):
    save_file(weights, folders.diffusion_models / f"{name}.safetensors")
    return f"diffusion_models/{name}.safetensors"


def test_nan_is_refused_by_key(host, folders, pair_files, base_weights):
    weights = cloned(base_weights)
    weights["proj_out.weight"][0, 0] = float("nan")
    message = refusal(host, pair_files[0], damaged(folders, "nan", weights))
    assert "nan.safetensors" in message and "proj_out.weight" in message


def test_missing_weights_are_refused_by_key(host, folders, pair_files, base_weights):
    weights = {name: value for name, value in base_weights.items() if name != "transformer_blocks.1.ff.net.2.weight"}
    message = refusal(host, pair_files[0], damaged(folders, "partial", weights))
    assert "weights are missing" in message and "mlp.fc2.weight" in message


def test_a_lora_is_no_checkpoint(host, folders, pair_files):
    lora = {"transformer.x.lora_A.weight": torch.zeros(4, 8), "transformer.x.lora_B.weight": torch.zeros(8, 4)}
    message = refusal(host, pair_files[0], damaged(folders, "lora", lora))
    assert "lora.safetensors" in message


def test_another_size_of_the_architecture_is_refused(host, folders, pair_files):
    deeper = damaged(folders, "deeper", tiny.sd3_transformer(depth=3).state_dict())
    message = refusal(host, pair_files[0], deeper)
    assert "base.safetensors and deeper.safetensors" in message and "differ in weights" in message
    assert "differ in weights" in refusal(host, pair_files[0], deeper, compress="low-rank")


def test_weights_that_the_host_never_uses_may_be_missing(host):
    """Z-Image files lack a norm that 0.3.75 makes and never calls; a quantised file's absent scale is 1."""
    whole = host.module("nodes.host.models.checkpoints").whole_weights
    with whole("z-image.safetensors"):
        logging.warning("unet missing: ['norm_final.weight', 'layers.0.feed_forward.w1.scale_weight']")
    with (
        pytest.raises(
            ValueError, match=r"z-image.safetensors: 1 weights are missing, first layers.0.attention.qkv.weight"
        ),
        whole("z-image.safetensors"),
    ):
        logging.warning("unet missing: ['norm_final.weight', 'layers.0.attention.qkv.weight']")
