"""Every architecture x every format on the real host: all keys found, weights as PEFT merges them.

The names come from real diffusers classes, the adapters and the merging from PEFT, the layouts from the host's own and
diffusers' own checkpoint conversion. What passes is written to `tests/support/`, of which the README's table is made.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

TESTS = Path(__file__).resolve().parents[1]
RANK, ALPHA = 2, 6.0


def core_module(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, TESTS / "core" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    importlib.sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


geometry = core_module("architectures")


@dataclass
class Case:
    """One architecture: the host's model, the diffusers model, and what PEFT saves of an adapter on every module."""

    name: str
    tiny: Any
    model: Any
    plain: torch.nn.Module
    lora: dict[str, Tensor]


@pytest.fixture(scope="module")
def support(host: SimpleNamespace, arch: Case) -> Iterator[dict[str, list[str]]]:
    """The architecture's cells of the table: those that pass are kept beside the ones of earlier runs."""
    cells: dict[str, list[str]] = {arch.name: []}
    yield cells
    path = TESTS / "support" / f"{importlib.import_module('comfyui_version').__version__}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(exist_ok=True)
    kept[arch.name] = sorted({*kept.get(arch.name, ()), *cells[arch.name]})
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def in_host_layout(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A diffusers checkpoint as the host converts it on load."""
    import comfy.model_detection

    if comfy.model_detection.detect_unet_config(weights, "") is not None:
        return weights
    # the conversion swaps the halves of some norms' weights in place
    return comfy.model_detection.convert_diffusers_mmdit(
        {
            name: weight.contiguous() if "norm" in name and weight.numel() < 3e7 else weight
            for name, weight in weights.items()
        },
        "",
    )


def known_options(defined: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a model's options those that this release of the host has: newer models came with new ones."""
    params = [
        value for name, value in vars(defined).items() if name.endswith("Params") and dataclasses.is_dataclass(value)
    ]
    known = {field.name for value in params for field in dataclasses.fields(value)} | {"image_model"}
    return {name: value for name, value in options.items() if not params or name in known}


def host_weights(tiny: Any, diffusers_model: torch.nn.Module) -> dict[str, Tensor]:
    """A checkpoint in the host's layout: converted by the host where it does that, made of the host's class elsewhere."""
    if tiny.host is None:
        return in_host_layout(dict(diffusers_model.state_dict()))
    import comfy.ops

    module, _, cls = tiny.host[0].rpartition(".")
    defined = importlib.import_module(f"comfy.ldm.{module}")
    options = known_options(defined, tiny.host[1])
    model = getattr(defined, cls)(
        **options, operations=comfy.ops.disable_weight_init, device="meta", dtype=torch.float32
    )
    return geometry.expanded({name: tuple(weight.shape) for name, weight in model.state_dict().items()})


def without_storage(weights: dict[str, Tensor]) -> Any:
    """The host's model for a checkpoint, as its loader finds and builds it, its weights the checkpoint's own tensors."""
    import comfy.model_detection
    import comfy.model_patcher

    config = comfy.model_detection.model_config_from_unet(weights, "")
    assert config is not None, "the host does not recognise the checkpoint"
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(weights, "", device="meta")
    missing, unexpected = model.diffusion_model.load_state_dict(weights, strict=False, assign=True)
    assert not unexpected and set(missing) <= {"norm_final.weight", "y_embedder.y_embedding"}, (missing, unexpected)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


@lru_cache(maxsize=1)
def case(name: str) -> Case:
    import peft

    tiny = geometry.ARCHITECTURES[name]
    plain = geometry.diffusers_model(tiny)
    model = without_storage(host_weights(tiny, plain))
    adapted = geometry.with_adapter(
        plain, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=geometry.adaptable(plain))
    )
    lora = {key: value.contiguous() for key, value in peft.get_peft_model_state_dict(adapted).items()}
    return Case(name, tiny, model, adapted.unload(), lora)


@pytest.fixture(scope="module", params=list(geometry.ARCHITECTURES))
def arch(request: pytest.FixtureRequest, host: SimpleNamespace) -> Iterator[Case]:
    yield case(request.param)
    case.cache_clear()
    _names.cache_clear()
    gc.collect()


def patched(model: Any) -> dict[str, Tensor]:
    """The host's changed weights, in float32, by its own arithmetic, without the host's prefix."""
    import comfy.lora
    import comfy.utils

    return {
        key.removeprefix("diffusion_model."): comfy.lora.calculate_weight(
            patches, comfy.utils.get_attr(model.model, key).detach().to(torch.float32, copy=True), key
        )
        for key, patches in model.patches.items()
    }


ORIGINAL = (
    ("_attn.qkv.", "_attn_qkv."),
    ("_attn.proj.", "_attn_proj."),
    ("_mod.lin.", "_mod.linear."),
    (".modulation.lin.", ".modulation.linear."),
    ("mlp.0.", "mlp.fc1."),
    ("mlp.2.", "mlp.fc2."),
    ("_in.in_layer.", "_in.mlp.0."),
    ("_in.out_layer.", "_in.mlp.2."),
    ("vector_in.mlp.0.", "vector_in.in_layer."),
    ("vector_in.mlp.2.", "vector_in.out_layer."),
    ("self_attn.qkv.", "self_attn_qkv."),
    ("self_attn.proj.", "self_attn_proj."),
    ("_attn.norm.query_norm.", "_attn_q_norm."),
    ("_attn.norm.key_norm.", "_attn_k_norm."),
    (".norm.query_norm.", ".q_norm."),
    (".norm.key_norm.", ".k_norm."),
    ("t_embedder.in_layer.", "t_embedder.mlp.0."),
    ("t_embedder.out_layer.", "t_embedder.mlp.2."),
    ("c_embedder.in_layer.", "c_embedder.linear_1."),
    ("c_embedder.out_layer.", "c_embedder.linear_2."),
)
"""HunyuanVideo's host names -> those of its original checkpoints, which diffusers' conversion reads."""


def is_base(weight: Tensor) -> bool:
    """Whether a weight is the base's constant; one without storage of its own is."""
    return weight.untyped_storage().nbytes() <= 4 or bool((weight == geometry.BASE_WEIGHT).all())


def assert_merged(arch: Case, model: Any, expected: dict[str, Tensor]) -> None:
    """The host's patched weights are PEFT's merged ones, and nothing else changed."""
    found = patched(model)
    if arch.tiny.to_diffusers is None:
        expected = in_host_layout(expected)
    else:
        whole = dict(host_weights(arch.tiny, arch.plain)) | found
        if arch.name == "HunyuanVideo":
            for old, new in ORIGINAL:
                whole = {key.replace(old, new): weight for key, weight in whole.items()}
        found = geometry.in_diffusers_layout(arch.tiny, whole)
    changed = [key for key in expected if key in found and not (is_base(expected[key]) and is_base(found[key]))]
    assert changed and all(is_base(weight) for key, weight in expected.items() if key not in found)
    worst = max((float((found[key] - expected[key]).abs().max()), key) for key in changed)
    assert worst[0] < 1e-5, worst


def load(host: SimpleNamespace, arch: Case, path: Path, adapter: str = "", alpha: float = 0.0) -> tuple[Any, Any, list]:
    """The model with the file on it, the file's adapter, and where its changes went."""
    pack = host.pack.__name__
    read = importlib.import_module(f"{pack}.rlg_core.formats").read_adapter(path, adapter, alpha)
    installer = importlib.import_module(f"{pack}.nodes.host.models.adapters")
    matches = importlib.import_module(f"{pack}.rlg_core.names").match(read, names(host, arch.name))
    return installer.with_patches(arch.model, read, matches, 1.0), read, matches


def places(matches: list) -> dict[Any, Any]:
    return {(m.target.key, m.target.cut): m.term for m in matches}


@lru_cache(maxsize=1)
def _names(installer: Any, name: str) -> Any:
    return installer.name_map(case(name).model)


def names(host: SimpleNamespace, name: str) -> Any:
    return _names(importlib.import_module(f"{host.pack.__name__}.nodes.host.models.adapters"), name)


def record(support: dict[str, list[str]], arch: Case, cell: str) -> None:
    support.setdefault(arch.name, []).append(cell)


def peft_case(arch: Case, config: Any, folder: Path) -> dict[str, Tensor]:
    """An adapter of this config saved by PEFT in `folder`; returns PEFT's merged weights."""
    before = dict(arch.plain.state_dict())
    adapted = geometry.with_adapter(arch.plain, config)
    adapted.save_pretrained(str(folder))
    merged = dict(geometry.merged(adapted))
    arch.plain.load_state_dict(before, assign=True)
    return merged


def few(arch: Case, limit: int) -> list[str]:
    """Some modules of different kinds, small enough to hold their merged weights; those whose halves change places among them."""
    modules = dict(arch.plain.named_modules())
    small = [
        name
        for name in geometry.one_of_each(geometry.adaptable(arch.plain))
        if modules[name].weight.numel() < 2e7 and modules[name].weight.ndim < 5
    ]
    return list(dict.fromkeys([*small[:: -(-len(small) // limit)], *(name for name in small if "norm_out" in name)]))


def test_peft_folder(host, arch, support, tmp_path):
    """LoRA on modules of every kind, saved by PEFT, against PEFT's merge."""
    import peft

    targets = few(arch, 12)
    expected = peft_case(arch, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets), tmp_path)
    model, read, matches = load(host, arch, tmp_path)
    assert len(matches) == len(read.file.tensors) // 2 >= len(targets) and read.alphas == (ALPHA,)
    assert_merged(arch, model, expected)
    record(support, arch, "PEFT folder")


@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
def test_peft_loha_and_lokr(host, arch, support, tmp_path, kind):
    import peft

    config = getattr(peft, f"{kind}Config")(r=RANK, alpha=ALPHA, target_modules=few(arch, 5))
    expected = peft_case(arch, config, tmp_path)
    assert_merged(arch, load(host, arch, tmp_path)[0], expected)
    record(support, arch, kind)


def bare(arch: Case) -> dict[str, Tensor]:
    return {key.removeprefix("base_model.model."): value for key, value in arch.lora.items()}


def raw_state_dict(arch: Case) -> dict[str, Tensor]:
    return {key.replace(".weight", ".default.weight"): value for key, value in arch.lora.items()}


def diffusers_file(arch: Case) -> dict[str, Tensor]:
    return {f"{arch.tiny.prefix}.{key}": value for key, value in bare(arch).items()}


def with_alphas(weights: dict[str, Tensor], down: str) -> dict[str, Tensor]:
    return weights | {key.replace(down, ".alpha"): torch.tensor(ALPHA) for key in weights if key.endswith(down)}


def flat(arch: Case, prefix: str) -> dict[str, Tensor]:
    """kohya's way to write names: dots as underscores, lora_down and lora_up, an alpha for each module."""
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
    "PEFT raw state dict": (raw_state_dict, "adapter_config.json", PEFT_CONFIG),
    "diffusers": (diffusers_file, "header", HEADER),
    "diffusers + lora_config.json": (diffusers_file, "lora_config.json", TRAINER_CONFIG),
    "kohya": (lambda arch: flat(arch, "lora_unet_"), None, None),
    "LyCORIS names": (lambda arch: flat(arch, "lycoris_"), None, None),
    "bare": (bare, None, None),
}
"""Formats as (keys and tensors, where alpha is, what stands there); the same factors in each."""


@pytest.mark.parametrize("cell", list(FILES))
def test_files(host, arch, support, tmp_path, cell):
    """Every module's key in every format goes where PEFT's own key goes, with the same factors and scale."""
    save_file(arch.lora, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(PEFT_CONFIG))
    wanted = places(load(host, arch, tmp_path)[2])
    assert len(wanted) == len(arch.lora) // 2
    tensors, place, config = FILES[cell]
    folder = tmp_path / "other"
    folder.mkdir()
    prefix = f"{arch.tiny.prefix}." if cell == "diffusers" else ""
    metadata = (
        {"lora_adapter_metadata": json.dumps({prefix + key: value for key, value in HEADER.items()})}
        if place == "header"
        else None
    )
    save_file(tensors(arch), folder / "rl.safetensors", metadata)
    if place and place != "header":
        (folder / place).write_text(json.dumps(config))
    found = places(load(host, arch, folder / "rl.safetensors", alpha=ALPHA if cell == "bare" else 0.0)[2])
    assert found.keys() == wanted.keys()
    for key, term in found.items():
        assert term.scale == wanted[key].scale == ALPHA / RANK
        assert torch.equal(term.up, wanted[key].up) and torch.equal(term.down, wanted[key].down), key
    record(support, arch, cell)


def test_host_names(host, arch, support, tmp_path):
    """The host's own module names, as kohya's and musubi's trainers and ComfyUI itself write them."""
    weights = {
        key.removesuffix(".weight"): shape
        for key, shape in names(host, arch.name).shapes.items()
        if key.endswith(".weight") and len(shape) > 1
    }
    generator = torch.Generator().manual_seed(0)
    for prefix, flatten in (("diffusion_model.", False), ("lora_unet_", True)):
        lora = {}
        for module, shape in weights.items():
            name = prefix + (module.replace(".", "_") if flatten else module)
            lora[f"{name}.lora_down.weight"] = torch.randn(RANK, *shape[1:], generator=generator)
            lora[f"{name}.lora_up.weight"] = torch.randn(shape[0], RANK, *[1] * (len(shape) - 2), generator=generator)
        save_file(with_alphas(lora, ".lora_down.weight"), tmp_path / "own.safetensors")
        matches = load(host, arch, tmp_path / "own.safetensors")[2]
        assert {m.target.key for m in matches} == {f"diffusion_model.{module}.weight" for module in weights}
        assert all(m.target.cut is None and not m.target.swapped for m in matches)
    record(support, arch, "ComfyUI and kohya, host names")


def test_old_attention_processors(host, arch, support, tmp_path):
    if arch.tiny.prefix != "unet":
        pytest.skip("diffusers saved attention processors for UNets only")
    old = {}
    for key, value in bare(arch).items():
        module, _, part = key.rpartition(".lora_")
        parent, _, leaf = module.removesuffix(".0").rpartition(".")
        if leaf in ("to_q", "to_k", "to_v", "to_out"):
            old[f"unet.{parent}.processor.{leaf}_lora.{'down' if part[0] == 'A' else 'up'}.weight"] = value
    save_file(old, tmp_path / "old.safetensors")
    _, read, matches = load(host, arch, tmp_path / "old.safetensors")
    assert len(matches) == len(old) // 2 and "assumed" in read.alpha_source
    record(support, arch, "diffusers, old attention processors")


def test_recorded_keys(host, arch):
    """The host's keys that the host-free tests go by are those of this host (`RLG_RECORD=1` writes them)."""
    path = TESTS / "core" / "host_keys.json"
    recorded = json.loads(path.read_text()) if path.exists() else {}
    shapes = {key: list(shape) for key, shape in names(host, arch.name).shapes.items()}
    if os.environ.get("RLG_RECORD"):
        recorded[arch.name] = shapes
        path.write_text(
            "{\n"
            + ",\n".join(f"{json.dumps(name)}: {json.dumps(recorded[name])}" for name in sorted(recorded))
            + "\n}\n"
        )
    newer = {key.replace(".scale", ".weight"): shape for key, shape in shapes.items()}
    assert {
        key.replace(".scale", ".weight"): shape for key, shape in recorded[arch.name].items()
    }.items() <= newer.items()
