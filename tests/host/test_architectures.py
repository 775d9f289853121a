"""Every declared cell on the real host: each key of the file finds its weight, and weights are as PEFT merges them.

The names come from real diffusers classes, the adapters and the merging from PEFT, the layouts from the host's own and
diffusers' own checkpoint conversion.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from support import diffusers_models
from support.architectures import ARCHITECTURES, UNETS
from support.cells import CELLS, EVERY, FORMATS, NOT_ON
from support.host_keys import recorded
from support.host_models import ALPHA, PREFIX, RANK, Case, assert_merged

VERSION = os.environ.get("RLG_HOST_VERSION")


def unless(reason: str | None) -> list:
    """A mark for a parameter that this host cannot run, if there is a reason."""
    return [pytest.mark.skip(reason=reason)] if reason else []


@pytest.fixture(scope="module")
def case(host: SimpleNamespace) -> Callable[[str], Case]:
    """Makes the case of an architecture; the last one is kept, as its cells come in a row."""

    @lru_cache(maxsize=1)
    def make(name: str) -> Case:
        gc.collect()
        return Case(host, name)

    return make


def load(host: SimpleNamespace, arch: Case, path: Path, alpha: float = 0.0) -> tuple[Any, Any, list]:
    """The model with the file on it, the file's adapter, and where its changes went."""
    read = host.module("rlg_core.formats").read_adapter(path, "", alpha)
    matches = host.module("rlg_core.names").match(read, arch.names)
    return host.module("nodes.host.models.adapters").with_patches(arch.model, read, matches, 1.0), read, matches


# What PEFT saves


def few(arch: Case, limit: int) -> list[str]:
    """Some modules of different kinds, small enough to hold their merged weights, those that swap halves among them."""
    modules = dict(arch.plain.named_modules())
    small = [
        name
        for name in diffusers_models.one_of_each(diffusers_models.adaptable(arch.plain))
        if modules[name].weight.numel() < 2e7 and modules[name].weight.ndim < 5
    ]
    return list(dict.fromkeys([*small[:: -(-len(small) // limit)], *(name for name in small if "norm_out" in name)]))


def saved_by_peft(arch: Case, config: Any, folder: Path) -> dict[str, Tensor]:
    """An adapter of this config saved by PEFT in `folder`; returns PEFT's merged weights."""
    before = dict(arch.plain.state_dict())
    adapted = diffusers_models.with_adapter(arch.plain, config)
    adapted.save_pretrained(str(folder))
    merged = dict(diffusers_models.merged(adapted))
    arch.plain.load_state_dict(before, assign=True)
    return merged


def check_peft_folder(host: SimpleNamespace, arch: Case, folder: Path) -> None:
    """LoRA on modules of every kind, against PEFT's merge."""
    import peft

    targets = few(arch, 12)
    expected = saved_by_peft(arch, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets), folder)
    model, read, matches = load(host, arch, folder)
    assert len(matches) == len(read.file.tensors) // 2 >= len(targets) and read.alphas == (ALPHA,)
    assert_merged(host, arch, model, expected)


def check_peft_kind(kind: str, host: SimpleNamespace, arch: Case, folder: Path) -> None:
    """LoHa or LoKr, against PEFT's merge, on two modules: where changes go on every kind is the same as for LoRA."""
    import peft

    config = getattr(peft, f"{kind}Config")(r=RANK, alpha=ALPHA, target_modules=few(arch, 2))
    expected = saved_by_peft(arch, config, folder)
    assert_merged(host, arch, load(host, arch, folder)[0], expected)


# The same factors in other files


def bare(arch: Case) -> dict[str, Tensor]:
    return {key.removeprefix("base_model.model."): value for key, value in arch.lora.items()}


def raw_state_dict(arch: Case) -> dict[str, Tensor]:
    return {key.replace(".weight", ".default.weight"): value for key, value in arch.lora.items()}


def diffusers_file(arch: Case) -> dict[str, Tensor]:
    return {f"{arch.tiny.prefix}.{key}": value for key, value in bare(arch).items()}


def with_alphas(weights: dict[str, Tensor], down: str) -> dict[str, Tensor]:
    return weights | {key.replace(down, ".alpha"): torch.tensor(ALPHA) for key in weights if key.endswith(down)}


def flat(prefix: str, arch: Case) -> dict[str, Tensor]:
    """kohya's way to write names: dots as underscores, lora_down and lora_up, an alpha per module."""
    weights = {}
    for key, value in bare(arch).items():
        module, _, part = key.rpartition(".lora_")
        name = {"A.weight": "lora_down.weight", "B.weight": "lora_up.weight"}[part]
        weights[f"{prefix}{module.replace('.', '_')}.{name}"] = value
    return with_alphas(weights, ".lora_down.weight")


PEFT_CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}
TRAINER_CONFIG = {"step": 1, "lora_params": {"lora_rank": RANK, "lora_alpha": ALPHA}}
HEADER = {"r": RANK, "lora_alpha": ALPHA}

FILES = {
    "PEFT state dict": (raw_state_dict, "adapter_config.json", PEFT_CONFIG),
    "diffusers": (diffusers_file, "header", HEADER),
    "GRPO trainers": (diffusers_file, "lora_config.json", TRAINER_CONFIG),
    "kohya": (partial(flat, "lora_unet_"), None, None),
    "LyCORIS": (partial(flat, "lycoris_"), None, None),
    "bare names": (bare, None, None),
}
"""Formats as (keys and tensors, where alpha is, what stands there)."""


def write(arch: Case, form: str, folder: Path) -> Path:
    """The adapter in one of `FILES`."""
    tensors, place, config = FILES[form]
    metadata = None
    if place == "header":
        named = {f"{arch.tiny.prefix}.{key}": value for key, value in config.items()}
        metadata = {"lora_adapter_metadata": json.dumps(named)}
    elif place:
        (folder / place).write_text(json.dumps(config))
    path = folder / ("pytorch_lora_weights.safetensors" if form == "GRPO trainers" else "rl.safetensors")
    save_file(tensors(arch), path, metadata)
    return path


def places(matches: list) -> dict[Any, Any]:
    return {(m.target.key, m.target.cut): m.term for m in matches}


def check_file(form: str, host: SimpleNamespace, arch: Case, folder: Path) -> None:
    """Every module's key goes where PEFT's own key goes, with the same factors and scale."""
    (folder / "peft").mkdir()
    save_file(arch.lora, folder / "peft" / "adapter_model.safetensors")
    (folder / "peft" / "adapter_config.json").write_text(json.dumps(PEFT_CONFIG))
    wanted = places(load(host, arch, folder / "peft")[2])
    assert len(wanted) == len(arch.lora) // 2
    alpha = ALPHA if form == "bare names" else 0.0
    found = places(load(host, arch, write(arch, form, folder), alpha)[2])
    assert found.keys() == wanted.keys()
    for key, term in found.items():
        assert term.scale == wanted[key].scale == ALPHA / RANK
        assert torch.equal(term.up, wanted[key].up) and torch.equal(term.down, wanted[key].down), key


def check_host_names(host: SimpleNamespace, arch: Case, folder: Path) -> None:
    """The host's own module names, as kohya's and musubi's trainers and ComfyUI itself write them."""
    weights = {
        key.removesuffix(".weight"): shape
        for key, shape in arch.names.shapes.items()
        if key.endswith(".weight") and len(shape) > 1
    }
    generator = torch.Generator().manual_seed(0)
    for prefix, flatten in ((PREFIX, False), ("lora_unet_", True)):
        lora = {}
        for module, shape in weights.items():
            name = prefix + (module.replace(".", "_") if flatten else module)
            lora[f"{name}.lora_down.weight"] = torch.randn(RANK, *shape[1:], generator=generator)
            lora[f"{name}.lora_up.weight"] = torch.randn(shape[0], RANK, *[1] * (len(shape) - 2), generator=generator)
        save_file(with_alphas(lora, ".lora_down.weight"), folder / "own.safetensors")
        matches = load(host, arch, folder / "own.safetensors")[2]
        assert {m.target.key for m in matches} == {f"{PREFIX}{module}.weight" for module in weights}
        assert all(m.target.cut is None and not m.target.swapped for m in matches)


def check_old_attention_processors(host: SimpleNamespace, arch: Case, folder: Path) -> None:
    old = {}
    for key, value in bare(arch).items():
        module, _, part = key.rpartition(".lora_")
        parent, _, leaf = module.removesuffix(".0").rpartition(".")
        if leaf in ("to_q", "to_k", "to_v", "to_out"):
            old[f"unet.{parent}.processor.{leaf}_lora.{'down' if part[0] == 'A' else 'up'}.weight"] = value
    save_file(old, folder / "old.safetensors")
    _, read, matches = load(host, arch, folder / "old.safetensors")
    assert len(matches) == len(old) // 2 > 0 and "assumed" in read.alpha_source


CHECKS = {
    **{form: partial(check_file, form) for form in FILES},
    **{kind: partial(check_peft_kind, kind) for kind in ("LoHa", "LoKr")},
    "PEFT folder": check_peft_folder,
    "old diffusers": check_old_attention_processors,
    "ComfyUI": check_host_names,
}


@pytest.mark.parametrize(
    ("architecture", "form"),
    [pytest.param(c.architecture, c.format, marks=unless(c.not_on.get(VERSION))) for c in CELLS],
)
def test_cells_load(host, case, architecture, form, tmp_path):
    CHECKS[form](host, case(architecture), tmp_path)


def test_every_check_is_of_a_declared_format():
    assert CHECKS.keys() == FORMATS.keys()


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=unless(NOT_ON.get((name, EVERY), {}).get(VERSION)))
        for name in sorted(ARCHITECTURES.keys() - UNETS)
    ],
)
def test_recorded_keys(host, architecture):
    """The keys that the host-free tests go by are this host's; the older one calls some norms' weights `scale`."""
    names = Case(host, architecture).names
    found = {key.replace(".scale", ".weight"): list(shape) for key, shape in names.shapes.items()}
    known = {key.replace(".scale", ".weight"): shape for key, shape in recorded()[architecture].items()}
    assert known.items() <= found.items(), "run python -m tests.support.host_keys on the newer host"
