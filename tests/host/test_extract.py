"""RLG Extract Adapter: the difference of two models as a LoRA that the stock loader reads at true strength."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import tiny
from support.guiding import guide, run_node, two_passes
from support.patched import patched_weight
from support.sampling import Sampling, wan_sampling
from support.tensors import cloned, largest, rms

RANK = 4
pytestmark = pytest.mark.usefixtures("inference_mode")


@pytest.fixture(autouse=True)
def output(host, tmp_path):
    before = host.folder_paths.get_output_directory()
    host.folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    host.folder_paths.set_output_directory(before)


def tuned(weights, rank=RANK, full=()):
    """`weights` with rank-`rank` changes of the attention layers, changes of their biases, full-rank ones of `full`."""
    generator = torch.Generator().manual_seed(5)
    weights = cloned(weights)
    for name, value in weights.items():
        if name in full:
            value += torch.randn(value.shape, generator=generator) * 0.02
        elif ".attn" in name and name.endswith(".weight") and value.ndim == 2:
            up, down = (torch.randn(size, rank, generator=generator) * 0.1 for size in value.shape)
            value += up @ down.T
        elif ".attn" in name and name.endswith(".bias"):
            value += torch.randn(value.shape, generator=generator) * 0.01
    return weights


@pytest.fixture(scope="module")
def sd3(host):
    weights = tiny.sd3_transformer().state_dict()
    return tiny.load_weights(host, weights), tiny.load_weights(host, tuned(weights))


def extract(host, model, rl_model, rank=RANK, energy=1.0, prefix="loras/tiny"):
    return run_node(host, "RLGExtractAdapter", model, rl_model, rank, energy, prefix)


def saved(report) -> Path:
    return Path(report.splitlines()[0].removeprefix("Saved "))


def assert_same_weights(host, model, expected, tolerance=1e-6):
    """Every weight of `model`, patches applied, is `expected`'s."""
    for name, weight in expected.model.diffusion_model.named_parameters():
        key = f"diffusion_model.{name}"
        error = (patched_weight(host, model, key) - weight.float()).abs().max()
        assert error <= tolerance * weight.float().abs().max(), key


def test_a_rank_r_fine_tune_is_recovered_to_rounding(host, sd3):
    model, rl_model = sd3
    extracted, report = extract(host, *sd3)
    assert extracted.model is model.model
    assert_same_weights(host, extracted, rl_model, 1e-5)
    settings = Sampling()
    expected = settings.run(host, rl_model)
    assert (settings.run(host, extracted) - expected).abs().max() < 1e-4
    assert rms(expected - settings.run(host, model)) > 1e-2
    assert float(report.split("least ")[1].split("%")[0]) > 99.999


def test_biases_are_kept_exactly(host, sd3):
    model, rl_model = sd3
    extracted, _ = extract(host, *sd3)
    biases = [key for key in extracted.patches if key.endswith(".bias")]
    assert biases
    for key in biases:
        ((_, (kind, (delta,)), *_),) = extracted.patches[key]
        ours, theirs = (host.comfy.utils.get_attr(m.model, key) for m in (model, rl_model))
        assert kind == "diff" and torch.equal(delta, theirs - ours)


@pytest.mark.parametrize("loader", ["stock", "RLGAdapterLoader"])
def test_the_file_loads_at_true_strength(host, sd3, output, loader):
    model, rl_model = sd3
    _, report = extract(host, *sd3)
    path = saved(report)
    host.folder_paths.add_model_folder_path("loras", str(path.parent), is_default=True)
    if loader == "stock":
        loaded = host.nodes.LoraLoaderModelOnly().load_lora_model_only(model, path.name, 1.0)[0]
    else:
        loaded = run_node(host, loader, model, path.name, 1.0, 0.0, "")[0]
    assert_same_weights(host, loaded, rl_model, 1e-5)


def test_files_are_never_overwritten(host, sd3):
    first, second = (saved(extract(host, *sd3)[1]) for _ in range(2))
    assert first != second and first.exists() and second.exists()
    assert {*first.parent.iterdir()} == {first, second}  # no partial file stays


def test_a_failed_write_leaves_no_file(host, sd3, output, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(host.module("rlg_core.save.files"), "save_file", full)
    with pytest.raises(host.module("rlg_core.errors").AdapterError, match=r"cannot be written \(No space"):
        extract(host, *sd3)
    assert [path for path in output.rglob("*") if path.is_file()] == []


def test_energy_lowers_the_rank_and_is_kept(host):
    weights = tiny.sd3_transformer().state_dict()
    name = "transformer_blocks.0.ff.net.0.proj.weight"
    pair = tiny.load_weights(host, weights), tiny.load_weights(host, tuned(weights, full=(name,)))
    extracted, report = extract(host, *pair, rank=48, energy=0.5)
    line = next(line for line in report.splitlines() if "mlp.fc1.weight: rank" in line)
    rank, kept = int(line.split("rank ")[1].split(",")[0]), float(line.split("kept ")[1].rstrip("%"))
    assert rank < 48 and 50 <= kept < 60
    key = "diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight"
    base, whole, change = (patched_weight(host, m, key) for m in (*pair, extracted))
    lost = float((whole - change).square().sum() / (whole - base).square().sum())
    assert 1 - lost == pytest.approx(kept / 100, abs=1e-4)


def test_patches_on_either_model_count(host, sd3):
    model, rl_model = sd3
    key = "diffusion_model.final_layer.linear.weight"
    change = torch.full_like(host.comfy.utils.get_attr(model.model, key), 0.01)
    both, only_rl = model.clone(), rl_model.clone()
    both.add_patches({key: ("diff", (change,))})
    only_rl.add_patches({key: ("diff", (2 * change,))})
    extracted, _ = extract(host, both, only_rl)
    assert torch.allclose(patched_weight(host, extracted, key), patched_weight(host, only_rl, key), atol=1e-6)
    assert len(extracted.patches[key]) == 2


def test_a_lora_on_the_same_model_is_extracted(host, sd3):
    model, _ = sd3
    rl_model = tiny.with_lora(host, model, tiny.sd3_lora())
    extracted, _ = extract(host, model, rl_model)
    settings = Sampling(steps=3)
    assert (settings.run(host, extracted) - settings.run(host, rl_model)).abs().max() < 1e-4


def test_convolutions_and_norms(host):
    weights = tiny.sd3_transformer(qk_norm="rms_norm").state_dict()
    model, changed = tiny.load_weights(host, weights), cloned(weights)
    generator = torch.Generator().manual_seed(1)
    conv = changed["pos_embed.proj.weight"]
    up, down = torch.randn(conv.shape[0], 2, generator=generator), torch.randn(2, conv[0].numel(), generator=generator)
    conv += (up @ down).reshape(conv.shape) * 1e-2
    changed["transformer_blocks.0.attn.norm_q.weight"] += 0.1
    rl_model = tiny.load_weights(host, changed)
    extracted, report = extract(host, model, rl_model, rank=2)
    assert "2 differ: 1 kept at low rank, 1 whole" in report
    assert_same_weights(host, extracted, rl_model, 1e-5)
    assert_same_weights(host, tiny.with_lora(host, model, load_file(saved(report))), rl_model, 1e-5)


@pytest.mark.parametrize(
    "dtype, factors",
    [(torch.float32, torch.float32), (torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)],
)
def test_factors_are_in_the_dtype_the_model_computes_in_or_as_coarse_as_its_files(host, dtype, factors):
    weights = tiny.sd3_transformer().state_dict()
    model, rl_model = tiny.load_weights(host, weights, dtype), tiny.load_weights(host, tuned(weights), dtype)
    extracted, report = extract(host, model, rl_model)
    tensors = load_file(saved(report))
    assert host.module("nodes.host.compat").compute_dtype(model) == torch.float32
    assert {value.dtype for name, value in tensors.items() if "lora_" in name} == {factors}
    assert_same_weights(host, extracted, rl_model, max(1e-5, 4 * torch.finfo(dtype).eps))


# Refusals


def test_identical_models_are_refused(host, sd3):
    with pytest.raises(ValueError, match="identical: there is no difference"):
        extract(host, sd3[0], sd3[0].clone())


def test_another_architecture_is_refused(host, sd3):
    with pytest.raises(ValueError, match="differ in weights"):
        extract(host, sd3[0], tiny.load_weights(host, tiny.sd3_transformer(depth=3).state_dict()))


def test_nan_is_refused_by_key(host, sd3):
    weights = tuned(tiny.sd3_transformer().state_dict())
    weights["proj_out.weight"][0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"final_layer.linear.weight: base or RL model has NaN"):
        extract(host, sd3[0], tiny.load_weights(host, weights))


def test_guided_models_are_refused(host, sd3):
    with pytest.raises(ValueError, match="has RLG on it"):
        extract(host, guide(host, *sd3), sd3[1])


def test_interrupting_stops_it(host, sd3, output):
    management = host.comfy.model_management
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        extract(host, *sd3)
    assert [path for path in output.rglob("*") if path.is_file()] == []


def test_buffers_are_compared_in_the_coarser_dtype(host):
    module = host.module("nodes.host.models.sides")

    def same(a, b):
        return module._same(a.split, b.split, [a.dtype, b.dtype])

    fine = torch.rand(64, generator=torch.Generator().manual_seed(0))
    assert same(fine, fine.half()) and same(fine.bfloat16(), fine)
    assert not same(fine, 1.02 * fine.bfloat16()) and not same(torch.tensor([1, 2]), torch.tensor([1, 3]))


# Parameters of modules that are no layers


def test_parameters_of_blocks_are_kept_and_named(host):
    weights = tiny.wan_weights(host)
    changed = {name: value + 0.1 if name == "blocks.0.modulation" else value for name, value in weights.items()}
    model, rl_model = tiny.load_weights(host, weights), tiny.load_weights(host, tuned(changed))
    rl_model_extracted, report = extract(host, model, rl_model)
    assert "of modules that are no layers: diffusion_model.blocks.0.modulation." in report
    assert_same_weights(host, rl_model_extracted, rl_model, 1e-5)
    assert_same_weights(host, tiny.with_lora(host, model, load_file(saved(report))), rl_model, 1e-5)


def test_a_compressed_pair_keeps_them(host, tmp_path):
    weights = tiny.wan_weights(host)
    save_file(weights, tmp_path / "base.safetensors")
    changed = {name: value + 0.1 if name == "blocks.0.modulation" else value for name, value in weights.items()}
    save_file(changed, tmp_path / "rl.safetensors")
    load_pair = host.module("nodes.host.models.checkpoint_pair").load_pair
    model, rl_model, report = load_pair(tmp_path / "base.safetensors", tmp_path / "rl.safetensors", {}, 4)
    assert "of modules that are no layers: diffusion_model.blocks.0.modulation." in report
    _, checkpoint, _ = load_pair(tmp_path / "base.safetensors", tmp_path / "rl.safetensors", {}, None)
    settings = wan_sampling(steps=2)
    expected = settings.run(host, two_passes(host, model, checkpoint, 2.0))
    assert largest(settings.run(host, guide(host, model, rl_model, 2.0)), expected) < 1e-4 * max(1.0, rms(expected))


def test_the_report_tells_rounding_from_training(host):
    """Two bfloat16 files whose changes are as small as their rounding."""
    weights = tiny.sd3_transformer().state_dict()
    changed = {name: value + 3e-3 * (tuned(weights)[name] - value) for name, value in weights.items()}
    rounded = ({name: value.bfloat16() for name, value in w.items()} for w in (weights, changed))
    _, report = extract(host, *(tiny.load_weights(host, w) for w in rounded))
    line = next(line for line in report.splitlines() if line.startswith("Rounding of the two files"))
    floor = float(line.split("is ")[1].split("%")[0])
    assert 20 < floor <= 100 and ("of the energy above it" in line or "none lies above it" in line)


def test_weights_in_float32_have_no_rounding_floor(host, sd3):
    assert "Rounding of the two files" not in extract(host, *sd3)[1]
