"""Adapter files as they lie on people's disks: configs of neighbours, names that training leaves, files that change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rlg_core.errors import AdapterError
from rlg_core.formats import read_adapter
from rlg_core.names import NameMap, match
from support.tensors import random

RANK, WIDTH = 2, 8
SHAPES = {
    "double_blocks.0.img_attn.qkv.weight": (3 * WIDTH, WIDTH),
    "double_blocks.0.txt_attn.qkv.weight": (3 * WIDTH, WIDTH),
    "double_blocks.0.img_attn.proj.weight": (WIDTH, WIDTH),
    "double_blocks.0.txt_attn.proj.weight": (WIDTH, WIDTH),
    "single_blocks.0.linear1.weight": (7 * WIDTH, WIDTH),
    "single_blocks.0.linear2.weight": (WIDTH, 5 * WIDTH),
}
FLUX = NameMap(SHAPES)
MODULE = "transformer_blocks.0.attn.to_q"
PEFT = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["to_q"]}
TRAINER = {"step": 9, "lora_params": {"lora_rank": RANK, "lora_alpha": 4 * RANK, "target_modules": ["to_q"]}}


def factors(module: str, down: str = "lora_A.weight", up: str = "lora_B.weight") -> dict[str, Tensor]:
    return {f"{module}.{down}": random(RANK, WIDTH), f"{module}.{up}": random(WIDTH, RANK)}


DIFFUSERS = factors(f"transformer.{MODULE}")


def write(path: Path, tensors: dict[str, Tensor], header: dict[str, str] | None = None, **configs: Any) -> Path:
    """`path` with these tensors, and configs beside it by name: `{name: content}`, without `.json`."""
    save_file(tensors, path, header)
    for name, content in configs.items():
        path.with_name(f"{name}.json").write_text(json.dumps(content))
    return path


def scale(path: Path, alpha: float = 0.0) -> float:
    return read_adapter(path, "", alpha).changes[0].scale


def delta(path: Path) -> dict[str, Tensor]:
    """The change of each FLUX weight, with zeros outside the rows that a change concerns."""
    found = {}
    for one in match(read_adapter(path), FLUX):
        whole = found.setdefault(one.target.key, torch.zeros(one.target.shape))
        whole.narrow(0, *(one.target.cut or (0, len(whole)))).add_(one.term.delta())
    return found


# Whose a config is


@pytest.mark.parametrize("config", [{"adapter_config": PEFT}, {"lora_config": TRAINER}])
def test_a_config_that_may_be_a_neighbours_is_asked_about(tmp_path, config):
    """A lone diffusers LoRA of the same rank and targets would get the strength of another one."""
    path = write(tmp_path / "style.safetensors", DIFFUSERS, **config)
    with pytest.raises(AdapterError, match=r"at [24]x.*rename it to style_config.json.*`alpha` input to the rank, 2"):
        read_adapter(path)
    assert scale(path, alpha=RANK) == 1.0


def test_a_neighbours_config_that_changes_nothing_is_no_question(tmp_path):
    assert scale(write(tmp_path / "a.safetensors", DIFFUSERS, adapter_config=PEFT | {"lora_alpha": RANK})) == 1.0
    assert scale(write(tmp_path / "a.safetensors", DIFFUSERS, adapter_config=PEFT | {"r": 7})) == 1.0
    alpha = {f"transformer.{MODULE}.alpha": torch.tensor(6.0)}
    assert scale(write(tmp_path / "a.safetensors", DIFFUSERS | alpha, adapter_config=PEFT)) == 3.0


def test_a_neighbours_config_that_cannot_be_used_is_asked_about(tmp_path):
    """It may be this file's, and say that the file cannot be loaded."""
    path = write(tmp_path / "a.safetensors", DIFFUSERS, adapter_config=PEFT | {"init_lora_weights": "pissa"})
    with pytest.raises(AdapterError, match=r"pissa.*rename it to a_config.json"):
        read_adapter(path)


@pytest.mark.parametrize(
    "name, tensors, config, expected",
    [
        ("adapter_model", DIFFUSERS, {"adapter_config": PEFT}, 2),
        ("adapter_model-step100", DIFFUSERS, {"adapter_config": PEFT}, 2),
        ("rl", factors(f"base_model.model.{MODULE}"), {"adapter_config": PEFT}, 2),
        ("rl", factors(MODULE, "lora_A.default.weight", "lora_B.default.weight"), {"adapter_config": PEFT}, 2),
        ("pytorch_lora_weights", DIFFUSERS, {"lora_config": TRAINER}, 4),
        ("adapter_model", factors(f"base_model.model.{MODULE}"), {"lora_config": TRAINER}, 4),
        ("rl", DIFFUSERS, {"rl_config": PEFT}, 2),
        ("rl", DIFFUSERS, {"rl": PEFT}, 2),
        ("rl", DIFFUSERS, {"rl": TRAINER}, 4),
        ("rl", DIFFUSERS, {"rl_config": {"rank": RANK, "alpha": 4 * RANK}}, 4),
        ("rl", DIFFUSERS, {"rl": PEFT, "adapter_config": TRAINER["lora_params"]}, 2),
        ("rl", DIFFUSERS, {"rl": {"activation text": "x", "preferred weight": 0.7}}, 1),
    ],
)  # fmt: skip
def test_configs_of_a_files_own(tmp_path, name, tensors, config, expected):
    assert scale(write(tmp_path / f"{name}.safetensors", tensors, **config)) == expected


@pytest.mark.parametrize(
    "header, expected",
    [
        ({"ss_network_alpha": "8", "ss_network_dim": "2"}, 4),
        ({"ss_network_alpha": "1.0"}, 0.5),
        ({"network_alpha": "3", "network_dim": "2"}, 1.5),
        ({"ss_network_alpha": "8", "ss_network_dim": "Dynamic"}, 4),
    ],
)
def test_alpha_in_the_header(tmp_path, header, expected):
    """Converters often drop kohya's `.alpha` tensors and keep the header; the tensors win where they are."""
    path = write(tmp_path / "a.safetensors", DIFFUSERS, header)
    assert scale(path) == expected
    assert next(iter(header)) in read_adapter(path).alpha_source
    alpha = {f"transformer.{MODULE}.alpha": torch.tensor(6.0)}
    assert scale(write(path, DIFFUSERS | alpha, header)) == 3.0


@pytest.mark.parametrize(
    "header, message",
    [
        ({"ss_network_alpha": "Dynamic", "ss_network_dim": "Dynamic"}, "'Dynamic', which is no number"),
        ({"ss_network_alpha": "8", "ss_network_dim": "4"}, "says rank 4, but"),
        ({"ss_network_alpha": "8", "ss_network_args": '{"conv_alpha": "1"}'}, "a scale of their own"),
        ({"ss_network_alpha": "8", "ss_network_args": '{"rs_lora": "True"}'}, "a scale of their own"),
        ({"ss_network_alpha": "nan"}, "expected a number for ss_network_alpha"),
    ],
)
def test_headers_that_do_not_tell_the_scale(tmp_path, header, message):
    path = write(tmp_path / "a.safetensors", DIFFUSERS, header)
    with pytest.raises(AdapterError, match=message):
        read_adapter(path)
    assert scale(path, alpha=5.0) == 2.5


# Names


@pytest.mark.parametrize(
    "wrapped",
    [
        "module.{}",
        "_orig_mod.{}",
        "_fsdp_wrapped_module.{}",
        "module._orig_mod.{}",
        "base_model.model._orig_mod.{}",
        "module.base_model.model.{}",
        "base_model.model._fsdp_wrapped_module.transformer_blocks.0._checkpoint_wrapped_module.attn.to_q",
        "transformer.transformer_blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.attn._orig_mod.to_q",
        "pipe.dit.{}",
        "dit.{}",
        "lora_unet.{}",
        "lora_unet._orig_mod.{}",
        "lora_unet__orig_mod_transformer_blocks_0_attn_to_q",
        "transformer_blocks.0.attn.to_q._orig_mod",
    ],
)  # fmt: skip
def test_prefixes_that_training_leaves(tmp_path, wrapped):
    path = write(tmp_path / "adapter_model.safetensors", factors(wrapped.format(MODULE)), adapter_config=PEFT)
    plain = write(tmp_path / "plain.safetensors", DIFFUSERS, plain=PEFT)
    assert delta(path).keys() == delta(plain).keys()
    assert all(torch.equal(delta(path)[key], value) for key, value in delta(plain).items())


@pytest.mark.parametrize("prefix", ["module.text_encoder.", "_orig_mod.text_encoder_2.", "pipe.text_encoder."])
def test_text_encoders_under_such_prefixes(tmp_path, prefix):
    path = write(tmp_path / "a.safetensors", DIFFUSERS | factors(f"{prefix}layers.0.q_proj"))
    with pytest.raises(AdapterError, match="2 of 4 keys change a text encoder"):
        read_adapter(path)


def test_xlabs(tmp_path):
    """XLabs' processors add `up(down(x))` to FLUX's own layers, and to the q, k, v of `linear1` only."""
    layers = {
        "double_blocks.0.processor.qkv_lora1": ("double_blocks.0.img_attn.qkv.weight", 3 * WIDTH, WIDTH),
        "double_blocks.0.processor.qkv_lora2": ("double_blocks.0.txt_attn.qkv.weight", 3 * WIDTH, WIDTH),
        "double_blocks.0.processor.proj_lora1": ("double_blocks.0.img_attn.proj.weight", WIDTH, WIDTH),
        "double_blocks.0.processor.proj_lora2": ("double_blocks.0.txt_attn.proj.weight", WIDTH, WIDTH),
        "single_blocks.0.processor.qkv_lora": ("single_blocks.0.linear1.weight", 3 * WIDTH, WIDTH),
        "single_blocks.0.processor.proj_lora": ("single_blocks.0.linear2.weight", WIDTH, 5 * WIDTH),
    }
    tensors, expected = {}, {}
    for seed, (name, (key, rows, columns)) in enumerate(layers.items()):
        up, down = random(rows, RANK, seed=seed), random(RANK, columns, seed=seed)
        tensors |= {f"{name}.up.weight": up, f"{name}.down.weight": down}
        expected[key] = torch.cat([up @ down, torch.zeros(SHAPES[key][0] - rows, columns)])
    path = write(tmp_path / "furry.safetensors", tensors)
    found = delta(path)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.allclose(found[key], value, atol=1e-6), key
    assert (
        delta(write(path, {f"diffusion_model.{name}": value for name, value in tensors.items()})).keys() == found.keys()
    )
    with pytest.raises(AdapterError, match="for query, key and value"):
        read_adapter(
            write(
                path,
                {name: value[:-1] if name.endswith("lora.up.weight") else value for name, value in tensors.items()},
            )
        )


def test_a_raw_state_dict_with_the_position_table(tmp_path):
    """SD3's transformer has a table beside its weights, which PEFT's raw state dict holds too; nothing trains it."""
    raw = factors(f"base_model.model.{MODULE}", "lora_A.default.weight", "lora_B.default.weight")
    raw |= {f"base_model.model.{MODULE}.base_layer.weight": random(WIDTH, WIDTH)}
    raw |= {"base_model.model.pos_embed.pos_embed": random(1, 4, WIDTH)}
    path = write(tmp_path / "raw.safetensors", raw, adapter_config=PEFT)
    assert [change.module for change in read_adapter(path).changes] == [f"base_model.model.{MODULE}"]
    changed = DIFFUSERS | {"transformer.pos_embed.pos_embed": random(1, 4, WIDTH)}
    assert len(read_adapter(write(tmp_path / "b.safetensors", changed), alpha=1.0).changes) == 2


# The file itself


@pytest.mark.parametrize(
    "harm", ["os.truncate(path, 100)", "path.write_bytes(bytes(path.stat().st_size))", "path.unlink()"]
)
def test_an_adapter_owns_its_tensors(tmp_path, harm):
    """Reading a mapped file that was cut would end the process."""
    path = write(tmp_path / "a.safetensors", {**DIFFUSERS, "transformer.context_embedder.diff": random(2000, 2000)})
    code = f"""
import os, pathlib
from rlg_core.formats import read_adapter
path = pathlib.Path({str(path)!r})
def sums(adapter): return [change.term.delta().sum().item() for change in adapter.changes]
kept, before = read_adapter(path), sums(read_adapter(path))
{harm}
assert sums(kept) == before
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_only_the_adapters_tensors_are_read(tmp_path):
    """A raw state dict holds the base weights too: they stay where they are."""
    raw = factors(f"base_model.model.{MODULE}", "lora_A.default.weight", "lora_B.default.weight")
    raw |= factors(f"base_model.model.{MODULE}", "lora_A.old.weight", "lora_B.old.weight")
    raw |= {f"base_model.model.{MODULE}.base_layer.weight": random(WIDTH, WIDTH)}
    adapter = read_adapter(write(tmp_path / "raw.safetensors", raw, adapter_config=PEFT), "old")
    assert sorted(name.split(MODULE)[1] for name in adapter.file.tensors) == [
        ".lora_A.old.weight",
        ".lora_B.old.weight",
    ]


def test_a_file_that_changes_while_it_is_read(tmp_path):
    from rlg_core.formats.container import open_tensors

    path = write(tmp_path / "a.safetensors", {"a.diff": random(300, 300), **DIFFUSERS})
    with pytest.raises(AdapterError, match="changed while it was read"), open_tensors(path) as opened:
        opened.read(next(iter(opened.entries)))
        os.utime(path, ns=(1, 1))
    with pytest.raises(AdapterError, match=r"ends inside a\.diff"), open_tensors(path) as opened:
        os.truncate(path, 100_000)
        for name in opened.entries:
            opened.read(name)


def test_shards_are_to_be_joined(tmp_path):
    path = write(tmp_path / "model-00002-of-00003.safetensors", DIFFUSERS)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(AdapterError, match=r"part 2 of 3 of one model: join the shards"):
        read_adapter(path)
