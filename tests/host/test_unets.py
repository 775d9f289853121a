"""diffusers' names of UNets, whatever number of blocks their levels have: each finds the weight that it is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import tiny
from support.architectures import ARCHITECTURES, UNETS
from support.diffusers_models import adaptable, expanded, in_diffusers_layout
from support.guiding import run_node
from support.host_models import Case, without_storage
from support.patched import assert_same, patched_weights

CONVERTED = [name for name in sorted(UNETS) if ARCHITECTURES[name].to_diffusers]


@pytest.fixture(scope="module", params=sorted(UNETS))
def case(host: SimpleNamespace, request: pytest.FixtureRequest) -> Case:
    return Case(host, request.param)


def test_every_module_has_its_weight(case):
    for module in adaptable(case.plain):
        for parameter, own in case.plain.get_submodule(module).named_parameters():
            target = case.names.find(f"base_model.model.{module}", parameter)
            assert target is not None and target.cut is None and target.shape == tuple(own.shape), (
                f"{module}.{parameter}"
            )


def test_every_parameter_has_a_place_of_its_own(case):
    """Norms too, which full fine-tunes of a module save."""
    places = [case.names.find(*name.rsplit(".", 1)) for name, _ in case.plain.named_parameters()]
    assert None not in places and len({place.key for place in places}) == len(places)
    assert len(places) == len(case.names.shapes)


def test_names_for_saving_are_those_of_diffusers(case):
    names = {name for name, _ in case.names.source_names()}
    assert set(adaptable(case.plain)) <= names


@pytest.mark.parametrize("name", CONVERTED)
def test_the_map_is_the_one_of_diffusers_own_conversion(host, name):
    """Every weight of the host numbered, and converted by diffusers."""
    case = Case(host, name)
    numbers = {key: torch.tensor(float(i)).expand(shape) for i, (key, shape) in enumerate(case.names.shapes.items())}
    keys = list(numbers)
    for name, weight in in_diffusers_layout(case.tiny, numbers).items():
        found = case.names.find(*name.rsplit(".", 1))
        assert found.key.removeprefix(case.names.prefix) == keys[int(weight.flatten()[0])], name


def test_levels_of_different_depth_are_left_alone(host):
    """The host's map counts all levels alike; where they differ it would name wrong weights, so nothing is named."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    options = ARCHITECTURES["BK-SDM"].host[1] | dict(num_res_blocks=[1, 2, 1, 1])
    options |= dict(transformer_depth=[1] * 4 + [0], transformer_depth_output=[1] * 7 + [0] * 2)
    model = UNetModel(**options, operations=host.comfy.ops.disable_weight_init, device="meta", dtype=torch.float32)
    model = without_storage(expanded({name: tuple(weight.shape) for name, weight in model.state_dict().items()}), {})
    stock = host.comfy.lora.model_lora_keys_unet(model.model, {})
    module = "down_blocks.1.resnets.0.conv1"
    assert stock[module] != "diffusion_model.input_blocks.3.0.in_layers.2.weight"
    names = host.module("nodes.host.models.adapters").name_map(model)
    assert (
        names.find(module, "weight") is None and names.find(f"lora_unet_{module.replace('.', '_')}", "weight") is None
    )
    assert names.find("lora_unet_input_blocks_3_0_in_layers_2", "weight").shape == (320, 320, 3, 3)


def test_saved_for_peft_under_diffusers_names(host, tmp_path, monkeypatch):
    """A UNet of one block per level: a file under diffusers' names comes out as it went in."""
    monkeypatch.setattr(host.folder_paths, "output_directory", str(tmp_path / "output"))
    base = tiny.load_weights(host, tiny.unet_weights(host))
    attention = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    resnet, middle = "up_blocks.0.resnets.1.conv1", "mid_block.attentions.0.proj_in"
    (tmp_path / "peft").mkdir()
    tensors = {}
    for module, shapes in {
        attention: ((2, 320), (320, 2)),
        resnet: ((2, 640, 3, 3), (320, 2, 1, 1)),
        middle: ((2, 320, 1, 1), (320, 2, 1, 1)),
    }.items():
        for part, shape in zip("AB", shapes):
            tensors[f"base_model.model.{module}.lora_{part}.weight"] = torch.randn(shape)
    save_file(tensors, tmp_path / "peft" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 3}
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(config))
    load = host.module("nodes.host.models.adapters").load
    read = host.module("rlg_core.formats").read_adapter
    rl_model = load(base, read(tmp_path / "peft"), 1.0)[0]
    (folder,) = run_node(host, "RLGSaveAdapter", base, rl_model, "rl", "peft")
    written = load_file(f"{folder}/adapter_model.safetensors")
    assert written.keys() == tensors.keys() and all(torch.equal(written[key], tensors[key]) for key in tensors)
    again = load(base, read(Path(folder)), 1.0)[0]
    assert_same(patched_weights(host, again), patched_weights(host, rl_model), 1e-6)
