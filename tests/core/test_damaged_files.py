"""Damaged adapters and odd configs: an error that names the file and the key, short, whatever the value is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rlg_core.errors import AdapterError
from rlg_core.formats import read_adapter

LORA = {"a.to_q.lora_A.weight": torch.ones(2, 8), "a.to_q.lora_B.weight": torch.ones(8, 2)}
PEFT = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["to_q"]}


def peft_file(folder: Path, **changes: Any) -> Path:
    """An adapter with PEFT's config beside it, changed like this."""
    save_file(LORA, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(PEFT | changes))
    return folder / "adapter_model.safetensors"


def raw_file(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str, shape: list, start: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "header, data, message",
    [
        ({"a.lora_A.weight": entry("F4", [2, 2], 0, 2)}, bytes(2), "a.lora_A.weight has dtype F4, expected floating"),
        ({"a.lora_A.weight": entry("C64", [2], 0, 16)}, bytes(16), "has dtype C64, expected floating-point"),
        ({"a.lora_A.weight": entry("I32", [2], 0, 8)}, bytes(8), "has dtype torch.int32, expected floating-point"),
        ({"a.lora_A.weight": entry("F32", [2, 2], 0, 8)}, bytes(8), r"has 8 bytes for shape \[2, 2\]"),
        ({"a.lora_A.weight": entry("F32", [2**62, 2**62], 0, 8)}, bytes(8), "has no shape"),
        ({"a.lora_A.weight": entry("F32", [True], 0, 4)}, bytes(4), "has no shape"),
        ({"a.lora_A.weight": entry("F32", [1], 0, 4)}, bytes(5), "tells of 4 bytes of tensors, and it has 5"),
        ({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 0, 4)}, bytes(4), "b lies at 0 to 4, and 4 is the next"),
        ({"x" * 600: entry("F32", [1], 0, 4)}, bytes(4), "name has 600 characters"),
        ({"a": 3}, b"", "its header: TypeError"),
        ({"a": {"dtype": "F32"}}, b"", "its header: KeyError"),
        ({"__metadata__": {"a": 3}, "a": entry("F32", [], 0, 4)}, bytes(4), "its header: AttributeError"),
        ({}, b"", "holds no tensors"),
        (b"[" * 100_000, b"", "its header: RecursionError"),
        (b"\xff\xfe", b"", "its header: UnicodeDecodeError"),
    ],
)  # fmt: skip
def test_headers_of_damaged_files(tmp_path, header, data, message):
    with pytest.raises(AdapterError, match=message) as refused:
        read_adapter(raw_file(tmp_path / "a.safetensors", header, data))
    told = str(refused.value)
    assert told.startswith("a.safetensors: ") and told.endswith(f"Folder: {tmp_path}") and len(told) < 800


def test_a_header_that_is_too_long(tmp_path):
    (tmp_path / "a.safetensors").write_bytes((2**60).to_bytes(8, "little") + bytes(100))
    with pytest.raises(AdapterError, match=f"header would have {2**60} bytes"):
        read_adapter(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"abc")
    with pytest.raises(AdapterError, match="not a whole safetensors file"):
        read_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "config, message",
    [
        ({"lora_alpha": 10**400}, "expected a number for lora_alpha, got 1000"),
        ({"lora_alpha": "x" * 5_000_000}, "expected a number for lora_alpha, got 'xxx"),
        ({"lora_alpha": {"x" * 5000: 1}}, "expected a number for lora_alpha, got {'xxx"),
        ({"r": 0}, "whole number of at least 1 for r, got 0"),
        ({"r": 2.5}, "whole number of at least 1 for r, got 2.5"),
        ({"rank_pattern": {"to_q": 0}}, "rank_pattern: expected a whole number of at least 1 for 'to_q'"),
        ({"rank_pattern": {"a{99999999999999}": 2}}, "rank_pattern: its module patterns take too long"),
        ({"alpha_pattern": {"(" * 2000 + ")" * 2000: 2}}, "alpha_pattern: the module pattern .* nested more than 50"),
        ({"alpha_pattern": 7}, "expected modules and numbers for alpha_pattern, got 7"),
        ({"modules_to_save": 5}, "expected a list of names for modules_to_save, got 5"),
        ({"modules_to_save": "proj_out"}, "expected a list of names for modules_to_save, got 'proj_out'"),
        ({"target_modules": {"a": "b" * 9000}}, "expected a list of names for target_modules"),
        ({"target_modules": ["b" * 9000, 1]}, "expected a list of names for target_modules"),
        ({"peft_type": "y" * 9000}, "PEFT type YYYY"),
        ({"init_lora_weights": "z" * 9000}, "init_lora_weights is 'zzz"),
    ],
)  # fmt: skip
def test_odd_values_in_a_config(tmp_path, config, message):
    """Short, with the file and the key, whatever the value is."""
    path = peft_file(tmp_path, **config)
    with pytest.raises(AdapterError, match=message) as refused:
        read_adapter(path)
    assert "adapter_config.json" in str(refused.value) and len(str(refused.value)) < 700


def test_a_config_that_is_too_large(tmp_path):
    path = peft_file(tmp_path)
    with (tmp_path / "adapter_config.json").open("wb") as config:
        config.truncate(2**30)
    with pytest.raises(AdapterError, match=r"adapter_config.json: expected a config of at most 16 MiB"):
        read_adapter(path)


def test_rank_zero(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a.lora_A.weight": torch.ones(0, 8), "a.lora_B.weight": torch.ones(8, 0)}, path)
    with pytest.raises(AdapterError, match="a has rank 0"):
        read_adapter(path)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), -1.0, 1e300, True])
def test_alphas_that_are_no_numbers(tmp_path, alpha):
    with pytest.raises(ValueError, match=r"alpha is .* expected a number from 0 to 1e"):
        read_adapter(peft_file(tmp_path), alpha=alpha)
