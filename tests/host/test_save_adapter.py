"""RLG Save Adapter: stock ComfyUI and PEFT load what it writes, at the strength it had."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from support import tiny
from support.guiding import guide, run_node
from support.patched import assert_same, patched_weights


@pytest.fixture
def output(host: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host.folder_paths, "output_directory", str(tmp_path / "output"))
    return tmp_path / "output"


@pytest.fixture(scope="session")
def base(host: SimpleNamespace):
    return tiny.load(host, tiny.sd3_transformer())


def with_file(host, base, path: Path, alpha: float = 0.0, strength: float = 1.0):
    read = host.module("rlg_core.formats").read_adapter(path, "", alpha)
    return host.module("nodes.host.models.adapters").load(base, read, strength)[0]


def save(host, base, rl_model, file_format: str) -> Path:
    return Path(run_node(host, "RLGSaveAdapter", base, rl_model, "loras/rl", file_format)[0])


@pytest.fixture
def adapted(tmp_path: Path) -> torch.nn.Module:
    model = tiny.sd3_adapted()
    model.save_pretrained(str(tmp_path / "peft"))
    return model


def stock(host, base, path: Path):
    return host.comfy.sd.load_lora_for_models(base, None, host.comfy.utils.load_torch_file(str(path)), 1.0, 0)[0]


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_stock_loader_reads_it_at_true_strength(host, base, adapted, output, tmp_path, strength):
    rl_model = with_file(host, base, tmp_path / "peft", strength=strength)
    path = save(host, base, rl_model, "comfyui")
    assert path.parent == output / "loras"
    assert_same(patched_weights(host, stock(host, base, path)), patched_weights(host, rl_model), 1e-6)


def test_peft_reads_it(host, base, adapted, output, tmp_path):
    import peft

    rl_model = with_file(host, base, tmp_path / "peft")
    folder = save(host, base, rl_model, "peft")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    own, theirs = (
        load_file(folder / "adapter_model.safetensors"),
        load_file(tmp_path / "peft" / "adapter_model.safetensors"),
    )
    assert own.keys() == theirs.keys() and all(torch.equal(own[key], theirs[key]) for key in own)
    loaded = peft.PeftModel.from_pretrained(tiny.sd3_transformer(), str(folder)).merge_and_unload().state_dict()
    expected = copy.deepcopy(adapted).merge_and_unload().state_dict()
    assert all(torch.allclose(loaded[key], expected[key], atol=1e-6) for key in expected)
    assert_same(patched_weights(host, with_file(host, base, folder)), patched_weights(host, rl_model), 1e-6)


def test_several_ranks_and_scales(host, base, adapted, output, tmp_path):
    """Two adapters of different ranks and alphas on the same weights, one with fused names, survive both formats."""
    generator = torch.Generator().manual_seed(4)
    name = "diffusion_model.joint_blocks.0.x_block.attn.qkv"
    save_file(
        {
            f"{name}.lora_down.weight": torch.randn(3, 128, generator=generator),
            f"{name}.lora_up.weight": torch.randn(384, 3, generator=generator),
            f"{name}.alpha": torch.tensor(1.7),
        },
        tmp_path / "fused.safetensors",
    )
    rl_model = with_file(host, with_file(host, base, tmp_path / "peft"), tmp_path / "fused.safetensors")
    expected = patched_weights(host, rl_model)
    assert_same(patched_weights(host, stock(host, base, save(host, base, rl_model, "comfyui"))), expected)
    folder = save(host, base, rl_model, "peft")
    assert json.loads((folder / "adapter_config.json").read_text())["rank_pattern"]
    assert_same(patched_weights(host, with_file(host, base, folder)), expected)


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "DoRA"])
def test_other_kinds_as_comfyui(host, base, output, tmp_path, kind):
    import peft

    targets = ["attn.to_q", "attn.to_out.0", "ff.net.2"]
    config = {
        "LoHa": lambda: peft.LoHaConfig(r=4, alpha=6, target_modules=targets),
        "LoKr": lambda: peft.LoKrConfig(r=4, alpha=6, target_modules=targets),
        "DoRA": lambda: peft.LoraConfig(r=4, lora_alpha=6, use_dora=True, target_modules=targets),
    }[kind]()
    model = peft.get_peft_model(tiny.sd3_transformer(), config)
    for name, parameter in model.named_parameters():
        if any(mark in name for mark in ("lora_A", "lora_B", "hada_", "lokr_")):
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.2
        elif "magnitude" in name:
            parameter.data = parameter.data * 1.1
    model.save_pretrained(str(tmp_path / kind))
    rl_model = with_file(host, base, tmp_path / kind)
    expected = patched_weights(host, rl_model)
    merged = tiny.load(host, model.merge_and_unload()).model.state_dict()
    assert_same(expected, {key: merged[key] for key in expected})
    assert_same(patched_weights(host, stock(host, base, save(host, base, rl_model, "comfyui"))), expected)
    with pytest.raises(ValueError, match="Save it in the comfyui format"):
        save(host, base, rl_model, "peft")


def test_nothing_is_overwritten_and_headers_are_kept(host, base, adapted, output, tmp_path):
    path = tmp_path / "peft" / "adapter_model.safetensors"
    save_file(load_file(path), path, {"format": "pt", "author": "somebody"})
    rl_model = with_file(host, base, tmp_path / "peft")
    paths = [save(host, base, rl_model, file_format) for file_format in ("comfyui", "comfyui", "peft", "peft")]
    assert len(set(paths)) == 4 and sorted(output.rglob("*.tmp")) == []
    with safe_open(paths[1], framework="pt") as file:
        assert file.metadata()["author"] == "somebody"
    write = host.module("rlg_core.save").write
    with pytest.raises(ValueError, match="not overwritten"):
        write(paths[0], {"x": torch.zeros(1)}, {})


def test_what_cannot_be_saved_is_refused(host, base, output):
    with pytest.raises(ValueError, match="identical"):
        save(host, base, base.clone(), "comfyui")
    with pytest.raises(ValueError, match="another checkpoint"):
        save(host, base, tiny.load(host, tiny.sd3_transformer(1)), "comfyui")
    with pytest.raises(ValueError, match="already has RLG on it"):
        save(host, base, guide(host, base, tiny.with_lora(host, base, tiny.sd3_lora())), "comfyui")
