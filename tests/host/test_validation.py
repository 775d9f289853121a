"""What is wrong without a model being loaded is told before anything runs; linked values are None, and pass."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

LORA = {f"base_model.model.a.lora_{part}.weight": torch.ones(4, 4) for part in "AB"}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html><html><body>Log in</body></html>"


@pytest.fixture
def validate(host: SimpleNamespace):
    """Asks a node, by name, whether its inputs can be right: True, or what is wrong."""
    return lambda name, **inputs: host.classes[name].validate_inputs(**inputs)


@pytest.fixture
def folder(host: SimpleNamespace, tmp_path, monkeypatch):
    """The host's only folder of LoRAs and of diffusion models."""
    for kind in ("loras", "diffusion_models", "checkpoints"):
        _, extensions = host.folder_paths.folder_names_and_paths[kind]
        monkeypatch.setitem(host.folder_paths.folder_names_and_paths, kind, ([str(tmp_path)], extensions))
    return tmp_path


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (LFS, "this is a Git LFS pointer of 70 bytes, not the file itself. Download the file from"),
        (PAGE, "this is a web page of 48 bytes, not the file itself. Download it again"),
        (b"PK\3\4" + bytes(60), "this is a zip archive"),
        (b"not a file", "not a whole safetensors file"),
    ],
)
def test_files_that_are_no_model(validate, folder, content, told):
    (folder / "rl.safetensors").write_bytes(content)
    for said in (
        validate("RLGAdapterLoader", lora_name="rl.safetensors"),
        validate("RLGCheckpointPairLoader", base_name="diffusion_models/rl.safetensors", rl_name=None),
    ):
        assert said.startswith(f"rl.safetensors: {told}") and said.endswith(f"\nFolder: {folder}"), said


def test_a_missing_alpha(validate, folder):
    """It is told without reading a tensor: NaN in them, which only the values show, waits for the run."""
    save_file({name: value * torch.nan for name, value in LORA.items()}, folder / "rl.safetensors")
    said = validate("RLGAdapterLoader", lora_name="rl.safetensors", alpha=0.0, adapter="")
    assert said.startswith("rl.safetensors: a PEFT adapter keeps its alpha") and "set the `alpha` input" in said
    assert validate("RLGAdapterLoader", lora_name="rl.safetensors", alpha=8.0, adapter="") is True
    (folder / "rl_config.json").write_text(json.dumps({"lora_params": {"lora_rank": 4, "lora_alpha": 8}}))
    assert validate("RLGAdapterLoader", lora_name="rl.safetensors", alpha=0.0, adapter="") is True


@pytest.mark.parametrize("linked", ["lora_name", "alpha", "adapter"])
def test_linked_values_of_the_adapter_loader(validate, folder, linked):
    save_file(LORA, folder / "rl.safetensors")
    given = {"lora_name": "rl.safetensors", "alpha": 0.0, "adapter": "none of that name"}
    assert validate("RLGAdapterLoader", **given) is not True
    assert validate("RLGAdapterLoader", **{**given, linked: None}) is True


def test_keys_for_a_text_encoder(validate, folder):
    save_file(LORA | {"text_encoder.a.lora_A.weight": torch.ones(4, 4)}, folder / "rl.safetensors")
    given = {"lora_name": "rl.safetensors", "alpha": 8.0, "adapter": ""}
    assert "Set `text_encoder` to ignore" in validate("RLGAdapterLoader", **given)
    assert "Set `text_encoder` to ignore" in validate("RLGAdapterLoader", **given, text_encoder="refuse")
    assert validate("RLGAdapterLoader", **given, text_encoder="ignore") is True
    assert validate("RLGAdapterLoader", **given, text_encoder=None) is True, "linked"
    assert "expected one of refuse, ignore" in validate("RLGAdapterLoader", **given, text_encoder="both")


@pytest.mark.parametrize("name", ["RLGApply", "RLGSchedule"])
def test_a_window_that_ends_before_it_starts(validate, name):
    assert "at most end_percent" in validate(name, start_percent=0.6, end_percent=0.4)
    assert "number from 0 to 1" in validate(name, start_percent=0.0, end_percent=1.5)
    assert validate(name, start_percent=0.4, end_percent=0.4) is True
    assert validate(name, start_percent=None, end_percent=0.4) is True


def test_a_window_that_something_replaces(validate):
    assert validate("RLGApply", start_percent=0.6, end_percent=0.4, schedule=None) is True, "a schedule is linked"
    assert validate("RLGSchedule", start_percent=0.6, end_percent=0.4, preset="paper") is True
    assert validate("RLGSchedule", start_percent=0.6, end_percent=0.4, preset=None) is True
    assert "expected one of custom, paper" in validate("RLGSchedule", start_percent=0, end_percent=1, preset="mine")


@pytest.mark.parametrize("name", ["RLGSweep", "RLGBatchSweep"])
@pytest.mark.parametrize(
    ("scales", "told"),
    [("0, one", "scales has 'one'"), ("", "scales is empty"), ("0, nan", "scales has 'nan'"), ("50", "from -10 to 20")],
)
def test_lists_of_scales(validate, name, scales, told):
    assert told in validate(name, scales=scales)
    assert validate(name, scales="-10 0; 1, 20") is True and validate(name, scales=None) is True


def test_a_budget_whose_parts_contradict_each_other(validate):
    assert "refresh_every to be 2 or more" in validate("RLGBudget", evaluate="exact", refresh_every=1, tolerance=0.1)
    assert validate("RLGBudget", evaluate="exact", refresh_every=2, tolerance=0.1) is True
    assert validate("RLGBudget", evaluate="exact", refresh_every=None, tolerance=0.1) is True
