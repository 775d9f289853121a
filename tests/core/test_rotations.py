"""OFT, BOFT and GLoRA against the weights that their trainers merge: the installed PEFT's, and recorded ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rlg_core.algebra import Generalized, LowRank, Rotated
from rlg_core.errors import AdapterError
from rlg_core.formats import read_adapter
from rlg_core.names import NameMap, match
from support.recorded_adapters import layers, recorded, stirred
from support.tensors import largest, random

BASE, RECORDED = recorded()
POINTWISE = ["linear", "pointwise"]
EVERY = [*POINTWISE, "conv"]
BLOCKS = {"oft_block_size": 4}


def with_adapter(path: Path, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """`base` with the adapter at `path` on it."""
    weights = dict(base)
    for found in match(read_adapter(path), NameMap({key: tuple(weight.shape) for key, weight in base.items()})):
        weight = weights[found.target.key]
        weights[found.target.key] = weight + found.term.delta(weight)
    return weights


def assert_merged(path: Path, base: dict[str, Tensor], merged: dict[str, Tensor]) -> None:
    found = with_adapter(path, base)
    for key, weight in merged.items():
        assert largest(weight, found[key]) < 1e-6, key
    assert any(largest(weight, base[key]) > 0.05 for key, weight in merged.items())


@pytest.fixture
def butterflies(monkeypatch) -> None:
    """Stands in for PEFT's CUDA kernel, a plain block-diagonal matrix: without it PEFT trains one butterfly factor."""
    from peft.tuners.boft import layer

    class Kernel:
        @staticmethod
        def forward(stages: Tensor) -> list[Tensor]:
            return [torch.stack([torch.block_diag(*blocks) for blocks in stages])]

    monkeypatch.setattr(layer, "get_fbd_cuda", lambda: Kernel)


@pytest.mark.parametrize(
    ("kind", "targets", "options"),
    [
        ("OFT", POINTWISE, BLOCKS),
        ("OFT", POINTWISE, {"r": 2, "oft_block_size": 0}),
        ("OFT", POINTWISE, BLOCKS | {"block_share": True}),
        ("OFT", POINTWISE, BLOCKS | {"coft": True, "eps": 0.3}),
        ("OFT", POINTWISE, BLOCKS | {"coft": True, "eps": 0.3, "block_share": True}),
        ("OFT", POINTWISE, BLOCKS | {"use_cayley_neumann": False}),
        *(("OFT", POINTWISE, BLOCKS | {"num_cayley_neumann_terms": terms}) for terms in (2, 3, 4, 6)),
        ("BOFT", EVERY, {"boft_block_size": 4}),
        ("BOFT", EVERY, {"boft_block_size": 4, "boft_n_butterfly_factor": 2}),
        ("BOFT", EVERY, {"boft_block_size": 2, "boft_n_butterfly_factor": 3}),
        ("BOFT", EVERY, {"boft_block_size": 0, "boft_block_num": 4}),
        ("BOFT", EVERY, {"boft_block_size": 4, "bias": "all"}),
    ],
)
def test_peft(tmp_path, butterflies, kind, targets, options):
    import peft

    config = getattr(peft, f"{kind}Config")(target_modules=targets, **options)
    model = stirred(peft.get_peft_model(layers(), config)).eval()
    model.save_pretrained(str(tmp_path))
    assert_merged(tmp_path, BASE, model.merge_and_unload(safe_merge=True).state_dict())


@pytest.mark.parametrize("name", RECORDED)
def test_recorded(tmp_path, name):
    assert_merged(RECORDED[name].write(tmp_path), BASE, RECORDED[name].merged)


def test_raw_state_dict(tmp_path):
    """PEFT's own state dict, with the adapter's name in the keys."""
    import peft

    model = stirred(peft.get_peft_model(layers(), peft.OFTConfig(target_modules=POINTWISE, **BLOCKS)))
    model.peft_config["default"].save_pretrained(str(tmp_path))
    save_file(
        {key: value for key, value in model.state_dict().items() if ".oft_R." in key}, tmp_path / "rl.safetensors"
    )
    assert_merged(tmp_path / "rl.safetensors", BASE, model.merge_and_unload().state_dict())


# Refused


def test_kernels_where_peft_trains_another_function(tmp_path):
    """PEFT unfolds the input, rotates the patches and folds them back: even an untrained adapter changes the output."""
    import peft

    x, base = random(1, 8, 6, 6), layers().requires_grad_(False)
    expected = base.conv(x)
    model = peft.get_peft_model(base, peft.OFTConfig(target_modules=["conv"], **BLOCKS)).eval()
    assert largest(model.base_model.model.conv(x).detach(), expected) > 1
    model.save_pretrained(str(tmp_path))
    with pytest.raises(AdapterError, match=r"conv: OFT on a kernel of \[3, 3\]"):
        with_adapter(tmp_path, BASE)


def without_config(name: str, folder: Path) -> Path:
    save_file(RECORDED[name].tensors, folder / "rl.safetensors")
    return folder / "rl.safetensors"


def test_a_rotation_whose_formula_only_the_config_tells(tmp_path):
    with pytest.raises(AdapterError, match=r"use_cayley_neumann of PEFT's adapter_config\.json"):
        read_adapter(without_config("PEFT 0.17 OFT, 5 terms", tmp_path))


def test_a_rotation_that_its_tensors_tell_whole(tmp_path, butterflies):
    import peft

    model = stirred(peft.get_peft_model(layers(), peft.BOFTConfig(target_modules=EVERY))).eval()
    model.save_pretrained(str(tmp_path))
    (tmp_path / "adapter_config.json").unlink()
    assert_merged(tmp_path, BASE, model.merge_and_unload(safe_merge=True).state_dict())


def test_alpha_on_the_node(tmp_path):
    with pytest.raises(AdapterError, match=r"no alpha scales BOFT\. Set the `alpha` input to 0"):
        read_adapter(RECORDED["LyCORIS boft"].write(tmp_path), alpha=4.0)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("LyCORIS diag-oft", {"lycoris_linear.dora_scale": torch.ones(16, 1)}, "DoRA's magnitudes beside OFT"),
        ("LyCORIS diag-oft", {"lycoris_linear.oft_blocks": torch.ones(2, 8, 6)}, "do not fit together"),
        ("LyCORIS diag-oft", {"lycoris_linear.alpha": None}, "has oft_blocks, but no alpha"),
        ("LyCORIS boft", {"lycoris_linear.oft_blocks": torch.ones(2, 3, 4, 4)}, "do not fit together"),
        ("LyCORIS glora", {"lycoris_linear.b2.weight": None}, "but no b2"),
    ],
)
def test_parts_that_make_no_whole(tmp_path, name, change, told):
    tensors = {key: value for key, value in (RECORDED[name].tensors | change).items() if value is not None}
    save_file(tensors, tmp_path / "rl.safetensors")
    with pytest.raises(AdapterError, match=f"lycoris_linear: .*{told}"):
        read_adapter(tmp_path / "rl.safetensors")


def test_a_size_that_the_weight_has_not(tmp_path):
    base = BASE | {"linear.weight": torch.zeros(18, 24)}
    with pytest.raises(
        AdapterError, match=r"linear: its change has shape \[16, -1\], but linear.weight has \[18, 24\]"
    ):
        with_adapter(RECORDED["LyCORIS diag-oft"].write(tmp_path), base)


def test_glora_with_rslora(tmp_path):
    """LyCORIS writes the alpha that it then divides by the root of the rank."""
    header = {"ss_network_args": '{"algo": "glora", "rs_lora": "True"}'}
    save_file(RECORDED["LyCORIS glora"].tensors, tmp_path / "rl.safetensors", header)
    with pytest.raises(AdapterError, match="rs_lora"):
        read_adapter(tmp_path / "rl.safetensors")


def test_glora_of_the_old_order(tmp_path):
    """LyCORIS 1 and 2 wrote `a1` and `b1` for the down projections."""
    tensors = {
        f"lycoris_linear.{name}.weight": random(*shape)
        for name, shape in (("a1", (3, 16)), ("a2", (16, 3)), ("b1", (3, 16)), ("b2", (16, 3)))
    }
    save_file(tensors | {"lycoris_linear.alpha": torch.tensor(3.0)}, tmp_path / "rl.safetensors")
    with pytest.raises(AdapterError, match=r"linear: .*LyCORIS before 3\.0"):
        with_adapter(tmp_path / "rl.safetensors", {"linear.weight": torch.zeros(16, 16)})


# As terms


def rotated(size: int, **options) -> Rotated:
    q = random(1, size // 4, 4, 4, size=0.3)
    return Rotated(torch.linalg.matrix_exp(q - q.mT), **options)


@pytest.mark.parametrize("on_input", [False, True])
def test_rotations_keep_the_length_of_what_they_turn(on_input):
    weight = random(12, 8)
    turned = weight + rotated(8 if on_input else 12, on_input=on_input).fitted((12, 8)).delta(weight)
    dim = 1 if on_input else 0
    assert torch.allclose(turned.norm(dim=dim), weight.norm(dim=dim), atol=1e-5)
    assert largest(turned, weight) > 0.1


def test_one_block_serves_any_multiple_of_its_size():
    term = Rotated(rotated(4, on_input=True).blocks, on_input=True, shared=True)
    assert term.fitted((6, 12)) is not None and term.fitted((6, 10)) is None


def test_glora_of_a_linear_layer_is_one_low_rank_change():
    """Whole in `additive`, which needs no dense difference beside shared weights."""
    term = Generalized(LowRank(random(48, 3), random(3, 48)), LowRank(random(40, 3), random(3, 48)), 0.7)
    weight = random(40, 48)
    low_rank = term.additive(weight)
    assert low_rank.rank == 6
    assert torch.allclose(low_rank.delta(), term.delta(weight), atol=1e-4)
    assert term.additive(weight[:10]) is None  # no smaller than the weight
