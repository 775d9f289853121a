"""Load RL Adapter on the real host: true strength, whole or not at all, and errors that say what to do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import tiny
from support.patched import all_weights, assert_same
from support.tiny import ALPHA, RANK


@pytest.fixture
def loras(host: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty models/loras, the host's only one while the test runs."""
    _, extensions = host.folder_paths.folder_names_and_paths["loras"]
    monkeypatch.setitem(host.folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], extensions))
    host.folder_paths.filename_list_cache.pop("loras", None)
    return tmp_path


@pytest.fixture(scope="session")
def node(host: SimpleNamespace):
    return host.classes["RLGAdapterLoader"]


@pytest.fixture(scope="session")
def base(host: SimpleNamespace):
    return tiny.load(host, tiny.sd3_transformer())


@pytest.fixture(scope="session")
def adapter() -> torch.nn.Module:
    return tiny.sd3_adapted()


@pytest.fixture
def folder(loras: Path, adapter: torch.nn.Module) -> Path:
    """A PEFT adapter folder, saved by PEFT."""
    adapter.save_pretrained(str(loras / "flow_grpo"))
    return loras / "flow_grpo"


def merged(host: SimpleNamespace, adapter: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What PEFT itself merges, brought into the host's layout by the host's own checkpoint loader."""
    model = tiny.load(host, copy.deepcopy(adapter).merge_and_unload())
    return model.model.state_dict()


def load(node, base, name: str, strength: float = 1.0, alpha: float = 0.0, adapter: str = ""):
    return node.execute(base, name, strength, alpha, adapter).args


def test_peft_folder_at_true_strength(host, node, base, adapter, folder):
    model, report = load(node, base, "flow_grpo")
    assert_same(all_weights(host, model), merged(host, adapter))
    assert "alpha: 8" in report and "adapter_config.json" in report and "at 0.5x" in report, report
    assert model is not base and not base.patches


def test_strength_is_linear(host, node, base, folder):
    before = {key: weight.clone() for key, weight in base.model.state_dict().items()}
    full, half = (all_weights(host, load(node, base, "flow_grpo", strength)[0]) for strength in (1.0, 0.5))
    assert_same(half, {key: (before[key] + full[key]) / 2 for key in before})


def test_the_list_names_each_adapter_once(host, node, loras, folder):
    (loras / "sub").mkdir()
    save_file({"x": torch.zeros(1)}, loras / "sub" / "style.safetensors")
    (folder / "old").mkdir()
    (folder / "adapter_model.safetensors").rename(folder / "old" / "adapter_model.safetensors")
    files = host.module("nodes.host.models.files")
    assert files.adapter_names() == ["flow_grpo/old", "sub/style.safetensors"]
    (folder / "adapter_model.safetensors").write_bytes((folder / "old" / "adapter_model.safetensors").read_bytes())
    host.folder_paths.filename_list_cache.pop("loras", None)
    assert files.adapter_names() == ["flow_grpo", "sub/style.safetensors"]


def test_either_spelling_of_a_name_is_valid(node, folder):
    for name in ("flow_grpo", "flow_grpo/adapter_model.safetensors", "flow_grpo\\adapter_model.safetensors"):
        assert node.validate_inputs(lora_name=name) is True
    assert "no adapter of that name" in node.validate_inputs(lora_name="nothing")
    assert "below models/loras" in node.validate_inputs(lora_name="../secret")


def test_fingerprint_changes_with_file_and_config(node, folder):
    seen = [node.fingerprint_inputs(lora_name="flow_grpo", strength=1.0)]
    assert seen[0] == node.fingerprint_inputs(lora_name="flow_grpo", strength=1.0)
    config = folder / "adapter_config.json"
    config.write_text(config.read_text() + " ")
    seen.append(node.fingerprint_inputs(lora_name="flow_grpo"))
    assert seen[0] != seen[1]


def test_named_adapters_of_a_folder(host, node, base, adapter, folder):
    other = tiny.with_adapter(tiny.sd3_transformer(), tiny.SD3_TARGETS, RANK, 2, seed=9)
    other.save_pretrained(str(folder / "old"))
    assert_same(all_weights(host, load(node, base, "flow_grpo", adapter="old")[0]), merged(host, other))
    assert_same(all_weights(host, load(node, base, "flow_grpo", adapter="default")[0]), merged(host, adapter))
    with pytest.raises(ValueError, match="there is none named 'new'"):
        load(node, base, "flow_grpo", adapter="new")


def test_missing_config_names_the_file_and_the_way_out(host, node, base, adapter, folder):
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"adapter_config\.json.*`alpha` input.*rank is 4"):
        load(node, base, "flow_grpo")
    model, report = load(node, base, "flow_grpo", alpha=ALPHA)
    assert_same(all_weights(host, model), merged(host, adapter))
    assert "the alpha input" in report


def rewrite(folder: Path, change) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = change(load_file(path))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def with_nan(tensors):
    name = next(iter(tensors))
    return tensors | {name: tensors[name].clone().fill_(float("nan"))}


def without_one(tensors):
    return dict(list(tensors.items())[1:])


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t: {k.replace("transformer_blocks", "layers"): v for k, v in t.items()},
            "none of its 15 changes is for this model .SD3.",
        ),
        (lambda t: {k.replace("blocks.1.", "blocks.7."): v for k, v in t.items()}, "7 of 15 changes have no weight"),
        (with_nan, "NaN or infinite"),
        (without_one, r"but no (down|up)"),
        (lambda t: {k: v[:, :64] if "lora_A" in k else v for k, v in t.items()}, "base model is of another size"),
        (lambda t: {k: v[:2] if "lora_A" in k else v for k, v in t.items()}, "(shapes do not fit|says rank 4)"),
        (lambda t: {k: v.to(torch.int32) for k, v in t.items()}, "floating-point"),
        (lambda t: t | {"base_model.model.pos_embed.unheard.of": torch.zeros(3)}, "1 of 16 changes"),
        (
            lambda t: t | {"text_encoder.layers.0.q_proj.lora_A.weight": torch.zeros(4, 8)},
            "Set `text_encoder` to ignore",
        ),
    ],
)
def test_bad_adapters_are_refused(node, base, folder, change, message):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message):
        load(node, base, "flow_grpo")
    assert not base.patches


def test_keys_for_a_text_encoder_are_left_out_on_demand(host, node, base, folder):
    """By the input of its own, and by the words that graphs of before it hold in `adapter`."""
    plain = all_weights(host, load(node, base, "flow_grpo")[0])
    rewrite(folder, lambda t: t | {"text_encoder.layers.0.q_proj.lora_A.weight": torch.zeros(4, 8)})
    for choice in (("", "ignore"), ("ignore text encoder",), ("Ignore Text Encoder", "refuse")):
        model, report = node.execute(base, "flow_grpo", 1.0, 0.0, *choice).args
        assert_same(all_weights(host, model), plain)
        assert "ignored on purpose: 1 text-encoder keys" in report


def test_corrupt_files_are_refused(node, base, folder):
    path = folder / "adapter_model.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-100], whole[:100], b"", b"\0" * 64, b"not a file"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            load(node, base, "flow_grpo")


def test_pickles_are_refused(node, base, folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ValueError, match="pickles"):
        load(node, base, "flow_grpo")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"peft_type": "VERA"}, "PEFT type VERA"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4.*Convert"),
        ({"use_qalora": True}, "use_qalora"),
        ({"lora_alpha": "much"}, "expected a number for lora_alpha"),
        ({"r": 16}, "is not of this file: it says rank 16"),
        ({"target_modules": ["q_proj"]}, "target_modules do not name"),
    ],
)
def test_configs_are_checked(node, base, folder, change, message):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load(node, base, "flow_grpo")


PEFT_OPTIONS = {
    "DoRA on fused q, k, v": dict(use_dora=True),
    "rsLoRA with patterns": dict(
        use_rslora=True, rank_pattern={"to_k": 2}, alpha_pattern={"transformer_blocks.1.attn.to_q": 3}
    ),
    "biases": dict(bias="lora_only"),
    "whole modules": dict(modules_to_save=["proj_out", "norm_out.linear", "transformer_blocks.0.norm1.linear"]),
    "norms that change halves": dict(target_modules=["norm_out.linear", "transformer_blocks.1.norm1_context.linear"]),
}


@pytest.mark.parametrize("name", list(PEFT_OPTIONS))
@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_whatever_peft_trains(host, node, base, loras, name, strength):
    """`W + strength (W_rl - W)`, with `W_rl` as PEFT merges it."""
    import peft

    options = dict(r=RANK, lora_alpha=ALPHA, target_modules=tiny.SD3_TARGETS) | PEFT_OPTIONS[name]
    trained = peft.get_peft_model(tiny.sd3_transformer(), peft.LoraConfig(**options))
    generator = torch.Generator().manual_seed(2)
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.1 * torch.randn(parameter.shape, generator=generator)
    trained.save_pretrained(str(loras / "rl"))
    model, _ = load(node, base, "rl", strength)
    before, after = base.model.state_dict(), merged(host, trained)
    assert_same(all_weights(host, model), {key: before[key] + strength * (after[key] - before[key]) for key in before})


def test_report(host, node, base, folder):
    lines = load(node, base, "flow_grpo", 0.5)[1].splitlines()
    assert lines[:5] == [
        "adapter: default of flow_grpo",
        "format: PEFT (LoRA), on SD3",
        "rank: 4; alpha: 8, from adapter_config.json",
        "scale: 2, times strength 0.5",
        "matched: 15 of 15 changes, on 7 weights",
    ]
    assert lines[5] == "stock ComfyUI would load this at 0.5x its true strength"
    assert lines[6].startswith("size of the change: ")


def test_report_of_what_stock_cannot_load(host, node, base, folder):
    """Raw state dicts name the adapter in their keys, which the stock loader does not find."""
    rewrite(folder, lambda t: {k.replace("base_model.model.", "unet.base_model.model."): v for k, v in t.items()})
    assert "stock ComfyUI would load this not at all" in load(node, base, "flow_grpo")[1]
