"""The names that real diffusers classes give their modules: each finds its weight in the host, none twice."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlg_core.errors import AdapterError
from rlg_core.formats import read_adapter
from rlg_core.names import NameMap, match
from rlg_core.names.cuts import KEY, QUERY, REST, VALUE
from rlg_core.names.table import ARCHITECTURES as RULES
from support.architectures import ARCHITECTURES, UNETS
from support.diffusers_models import adaptable, diffusers_model
from support.host_keys import recorded

HOST_KEYS = recorded()


@pytest.fixture(scope="module", params=[name for name, tiny in ARCHITECTURES.items() if tiny.cls and name not in UNETS])
def arch(request) -> tuple[torch.nn.Module, NameMap]:
    shapes = {f"diffusion_model.{key}": tuple(shape) for key, shape in HOST_KEYS[request.param].items()}
    return diffusers_model(ARCHITECTURES[request.param]), NameMap(shapes, "diffusion_model.")


def test_every_module_has_its_weight(arch):
    """Each module's weight and bias is found, with the shape it has in diffusers."""
    model, names = arch
    for module in adaptable(model):
        for parameter, own in model.get_submodule(module).named_parameters():
            target = names.find(f"base_model.model.{module}", parameter)
            assert target is not None, f"{module}.{parameter}"
            shape = (target.cut[1], *target.shape[1:]) if target.cut else target.shape
            assert shape == tuple(own.shape), (module, target)


def test_the_parts_of_a_weight_are_the_whole(arch):
    """Modules fused in the host tile its rows: no gap, no overlap."""
    model, names = arch
    rows: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for module in adaptable(model):
        target = names.find(module, "weight")
        if target.cut is not None:
            rows[target.key].add(target.cut)
    for key, parts in rows.items():
        end = 0
        for start, length in sorted(parts):
            assert start == end, (key, parts)
            end += length
        assert end == names.shapes[key.removeprefix(names.prefix)][0], (key, parts)


def test_every_parameter_has_its_place(arch):
    """Norms and tables too, which full fine-tunes of a module save; those that hosts compute themselves excepted."""
    model, names = arch
    made_up = ("pos_embed.pos_embed", "timestep_embedder.freqs")
    for name, _ in model.named_parameters():
        module, _, leaf = name.rpartition(".")
        if name.endswith(made_up):
            continue
        target = names.find(module, leaf) or names.find(name, "")
        assert target is not None, name


def test_known_by_rules(arch):
    assert arch[1].architecture in RULES


def test_grouped_queries():
    """Lumina2: 24 heads of queries, 8 of keys and values, 96 wide."""
    assert (QUERY(3840, 2304), KEY(3840, 2304), VALUE(3840, 2304)) == ((0, 2304), (2304, 768), (3072, 768))
    assert REST(7 * 256, 256) == (768, 1024)


@pytest.mark.parametrize(
    "name, swapped",
    [
        ("norm_out.linear", True),
        ("transformer_blocks.1.norm1_context.linear", True),
        ("transformer_blocks.0.norm1_context.linear", False),
    ],
)
def test_shift_and_scale_change_places(tmp_path, name, swapped):
    """SD3 on the host keeps (shift, scale) where diffusers has (scale, shift), in the last norms only."""
    names = NameMap({key: tuple(shape) for key, shape in HOST_KEYS["SD3.5"].items()})
    target = names.find(name, "weight")
    assert target.swapped is swapped
    up, down = torch.randn(target.shape[0], 2), torch.randn(2, target.shape[1])
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, tmp_path / "rl.safetensors")
    term = match(read_adapter(tmp_path / "rl.safetensors"), names)[0].term
    assert torch.equal(term.up, torch.cat(up.chunk(2)[::-1]) if swapped else up)


def test_the_hosts_own_names_where_there_are_no_rules():
    names = NameMap(
        {"diffusion_model.deep.weight": (6, 4)},
        "diffusion_model.",
        {
            "transformer.other": "diffusion_model.deep.weight",
            "transformer.half": ("diffusion_model.deep.weight", (0, 3, 3)),
        },
    )
    assert names.architecture is None
    assert names.find("transformer.other", "weight").cut is None
    assert names.find("transformer.half", "weight").cut == (3, 3)
    assert names.find("diffusion_model.deep", "weight").key == "diffusion_model.deep.weight"
    assert names.find("elsewhere", "weight") is None


def lora_on(modules: list[str], file: Path) -> Path:
    weights = {f"transformer.{module}.lora_A.weight": torch.ones(2, 8) for module in modules}
    save_file(weights | {key.replace("A.", "B."): torch.ones(8, 2) for key in weights}, file)
    return file


OTHERWISE_CALLED = {
    "SD3.5": "SD3",
    "Wan 2.1": "Wan",
    "Wan 2.2": "Wan",
    "Anima": "Cosmos-Predict2",
    "LTX-Video": "LTX-Video (or for LTX-2: their adapters name these modules alike)",
    "Lumina2": "OmniGen2 (or for Lumina2: their adapters name these modules alike)",
    **dict.fromkeys(UNETS, "Stable Diffusion UNet"),
}


@pytest.mark.parametrize("made_for", [name for name, tiny in ARCHITECTURES.items() if tiny.cls])
def test_another_architectures_adapter_is_named_for_what_it_is(tmp_path, made_for):
    """An adapter on every module of one architecture, loaded on another."""
    modules = adaptable(diffusers_model(ARCHITECTURES[made_for]))
    other = "PixArt" if made_for == "SD3.5" else "SD3.5"
    names = NameMap({key: tuple(shape) for key, shape in HOST_KEYS[other].items()})
    with pytest.raises(AdapterError) as refused:
        match(read_adapter(lora_on(modules, tmp_path / "rl.safetensors"), alpha=2), names)
    assert f"It was made for {OTHERWISE_CALLED.get(made_for, made_for)}" in str(refused.value)


def test_an_adapter_for_nothing_known_is_refused(tmp_path):
    names = NameMap({key: tuple(shape) for key, shape in HOST_KEYS["SD3.5"].items()})
    with pytest.raises(AdapterError, match=r"none of its 1 changes is for this model \(SD3\).*another architecture"):
        match(read_adapter(lora_on(["towers.0.bell"], tmp_path / "rl.safetensors"), alpha=2), names)


@pytest.mark.parametrize("copies", [["transformer.", "diffusion_model."], ["", "module."]])
def test_two_names_of_one_weight_are_refused(tmp_path, copies):
    """A file that holds an adapter twice would change the model by twice as much."""
    names = NameMap({key: tuple(shape) for key, shape in HOST_KEYS["SD3.5"].items()})
    module = "transformer_blocks.0.attn.to_q"
    width = names.find(module, "weight").shape[1]
    one = {"A": torch.ones(2, width), "B": torch.ones(width, 2)}
    assert names.find(module, "weight").cut is not None, "rows of a fused weight"
    both = {f"{prefix}{module}.lora_{part}.weight": value.clone() for prefix in copies for part, value in one.items()}
    save_file(both, tmp_path / "rl.safetensors")
    with pytest.raises(AdapterError, match=r"rl.safetensors: .*to_q and .*to_q both change .*qkv.weight: expected one"):
        match(read_adapter(tmp_path / "rl.safetensors", alpha=2), names)


def test_a_fused_weight_and_rows_of_it_are_refused(tmp_path):
    names = NameMap({key: tuple(shape) for key, shape in HOST_KEYS["SD3.5"].items()})
    rows = names.find("transformer_blocks.0.attn.to_q", "weight")
    fused = rows.key.removesuffix(".weight")
    file = {}
    for module, width in (("transformer.transformer_blocks.0.attn.to_q", rows.cut[1]), (fused, rows.shape[0])):
        file |= {
            f"{module}.lora_A.weight": torch.ones(2, rows.shape[1]),
            f"{module}.lora_B.weight": torch.ones(width, 2),
        }
    save_file(file, tmp_path / "rl.safetensors")
    with pytest.raises(AdapterError, match=r"to_q and .*qkv both change|qkv and .*to_q both change"):
        match(read_adapter(tmp_path / "rl.safetensors", alpha=2), names)
