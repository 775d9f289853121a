"""Adapter files as PEFT and others write them, read as terms: the same weights as PEFT's own merge."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rlg_core.errors import AdapterError
from rlg_core.formats import read_adapter
from rlg_core.formats.keys import read_key, spellings
from rlg_core.names import NameMap, match

RANK, ALPHA = 2, 6.0


class Layers(torch.nn.Module):
    """One layer of each kind that diffusion models adapt."""

    def __init__(self):
        super().__init__()
        nn = torch.nn.modules
        self.query = nn.linear.Linear(8, 12)
        self.key = nn.linear.Linear(8, 6, bias=False)
        self.conv = nn.conv.Conv2d(4, 6, 3)
        self.pointwise = nn.conv.Conv2d(6, 4, 1)
        self.video = nn.conv.Conv3d(2, 4, (1, 2, 2))
        self.norm = nn.normalization.GroupNorm(2, 4)


LINEAR, CONV = ["query", "key"], ["conv", "pointwise", "video"]

PEFT_CONFIGS = {
    "linear": dict(target_modules=LINEAR),
    "convolutions": dict(target_modules=CONV),
    "rsLoRA": dict(target_modules=LINEAR + CONV, use_rslora=True),
    "patterns": dict(
        target_modules=LINEAR + CONV, rank_pattern={"query": 5, "con.": 3}, alpha_pattern={"key": 11, "^conv": 7}
    ),
    "rsLoRA with patterns": dict(
        target_modules=LINEAR, use_rslora=True, rank_pattern={"key": 4}, alpha_pattern={"query": 3}
    ),
    "DoRA": dict(target_modules=[*LINEAR, "conv", "pointwise"], use_dora=True),
    "bias of adapted layers": dict(target_modules=LINEAR, bias="lora_only"),
    "all biases": dict(target_modules=LINEAR, bias="all"),
    "bias in the factors": dict(target_modules=["query"], lora_bias=True),
    "modules_to_save": dict(target_modules=LINEAR, modules_to_save=["norm", "pointwise"]),
    "regular expression": dict(target_modules=r"que.*|ke[xy]"),
}


def peft_adapter(config: Any) -> torch.nn.Module:
    """`Layers` under a PEFT adapter, every trainable value moved away from its start."""
    import peft

    torch.manual_seed(0)
    model = peft.get_peft_model(Layers(), config)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data + 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def name_map(weights: dict[str, Tensor]) -> NameMap:
    return NameMap({key: tuple(weight.shape) for key, weight in weights.items()})


def changed(weights: dict[str, Tensor], path: Path, adapter: str = "", alpha: float = 0.0) -> dict[str, Tensor]:
    """`weights` with the adapter's terms added."""
    result = dict(weights)
    for found in match(read_adapter(path, adapter, alpha), name_map(weights)):
        key = found.target.key
        result[key] = result[key] + found.term.delta(result[key]).reshape(result[key].shape)
    return result


def assert_merged(model: torch.nn.Module, path: Path, **how: Any) -> None:
    torch.manual_seed(0)
    found, expected = changed(Layers().state_dict(), path, **how), model.merge_and_unload().state_dict()
    for key, weight in expected.items():
        assert torch.allclose(found[key], weight, atol=1e-5), key


@pytest.mark.parametrize("name", list(PEFT_CONFIGS))
def test_peft_folders(tmp_path, name):
    import peft

    model = peft_adapter(peft.LoraConfig(**{"r": RANK, "lora_alpha": ALPHA} | PEFT_CONFIGS[name]))
    model.save_pretrained(str(tmp_path))
    assert_merged(model, tmp_path)


@pytest.mark.parametrize("name", ["linear", "DoRA", "modules_to_save", "bias of adapted layers", "all biases"])
def test_raw_state_dicts(tmp_path, name):
    """What `torch.save(model.state_dict())` of a PEFT model holds, base weights and all."""
    import peft

    model = peft_adapter(peft.LoraConfig(**{"r": RANK, "lora_alpha": ALPHA} | PEFT_CONFIGS[name]))
    model.peft_config["default"].save_pretrained(str(tmp_path))
    adapted = {
        key: value
        for key, value in model.state_dict().items()
        if any(mark in key for mark in ("lora_", "base_layer", "modules_to_save", "original_module", ".bias"))
    }
    save_file(adapted, tmp_path / "rl.safetensors")
    assert_merged(model, tmp_path / "rl.safetensors")


@pytest.mark.parametrize(
    "kind, options",
    [
        ("LoHa", {}),
        ("LoHa", {"use_effective_conv2d": True}),
        ("LoKr", {}),
        ("LoKr", {"decompose_both": True}),
        ("LoKr", {"r": 64}),
        ("LoKr", {"use_effective_conv2d": True, "decompose_factor": 2}),
    ],
)
def test_peft_loha_and_lokr(tmp_path, kind, options):
    import peft

    config = getattr(peft, f"{kind}Config")(
        **{"r": RANK, "alpha": ALPHA, "target_modules": [*LINEAR, "conv", "pointwise"]} | options
    )
    model = peft_adapter(config)
    model.save_pretrained(str(tmp_path))
    assert_merged(model, tmp_path)


LORA = {"query.lora_A.weight": torch.randn(RANK, 8), "query.lora_B.weight": torch.randn(12, RANK)}
CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["query"]}


def file(tmp_path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, **configs: Any) -> Path:
    """An adapter file with configs beside it, under the name that the tools that write such configs give it."""
    names = {"adapter_config": "adapter_model", "lora_config": "pytorch_lora_weights"}
    path = tmp_path / (next((name for config, name in names.items() if config in configs), "rl") + ".safetensors")
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, metadata)
    for name, config in configs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
    return path


def scale(path: Path, alpha: float = 0.0) -> float:
    return read_adapter(path, "", alpha).changes[0].scale


def test_order_of_alphas(tmp_path):
    """The input, `.alpha` tensors, the header, adapter_config.json, lora_config.json, an assumption."""
    header = {"lora_adapter_metadata": json.dumps({"r": RANK, "lora_alpha": 10})}
    alpha = {"query.alpha": torch.tensor(12.0)}
    trainer = {"lora_params": {"lora_rank": RANK, "lora_alpha": 14, "target_modules": ["query"]}}
    assert scale(file(tmp_path, LORA)) == 1.0
    assert scale(file(tmp_path, LORA, lora_config=trainer)) == 14 / RANK
    assert scale(file(tmp_path, LORA, adapter_config=CONFIG)) == ALPHA / RANK
    assert scale(file(tmp_path, LORA, header)) == 10 / RANK
    assert scale(file(tmp_path, LORA | alpha, header)) == 12 / RANK
    assert (
        scale(file(tmp_path, LORA | {"query.alpha": torch.tensor(12)}, header)) == 12 / RANK
    )  # converters write integers
    assert scale(file(tmp_path, LORA | alpha, header), alpha=1.0) == 1 / RANK


def test_trainer_config_by_component(tmp_path):
    """Wan GRPO trainers write one file for two transformers."""
    params = {
        "transformer": {"lora_rank": RANK, "lora_alpha": 4},
        "transformer_2": {"lora_rank": RANK, "lora_alpha": 8},
    }
    both = {f"{component}.{key}": value for component in params for key, value in LORA.items()}
    path = file(tmp_path, both, lora_config={"lora_params": params})
    assert read_adapter(path).changes[0].scale == 2 and read_adapter(path).name == "transformer"
    assert read_adapter(path, "transformer_2").changes[0].scale == 4


@pytest.mark.parametrize(
    "config",
    [
        {"lora_rank": RANK, "lora_alpha": 8},
        {"r": RANK, "alpha": 8},
        {"lora_params": {"rank": RANK, "alpha": 8}},
    ],
)
def test_trainer_configs(tmp_path, config):
    assert scale(file(tmp_path, LORA, lora_config=config)) == 4


def test_rslora_keeps_its_root_under_a_given_alpha(tmp_path):
    path = file(tmp_path, LORA, adapter_config=CONFIG | {"use_rslora": True})
    assert scale(path) == ALPHA / math.sqrt(RANK)
    assert scale(path, alpha=4.0) == 4 / math.sqrt(RANK)


@pytest.mark.parametrize(
    "config, message",
    [
        ({"r": 7}, "says rank 7, but query has rank 2"),
        ({"target_modules": ["value"]}, "do not name query"),
        ({"peft_type": "LOHA", "alpha": 2}, "describes a loha adapter"),
    ],
)
def test_a_config_of_another_file_stops_loading(tmp_path, config, message):
    path = file(tmp_path, LORA, adapter_config=CONFIG | config)
    with pytest.raises(AdapterError, match=message):
        read_adapter(path)
    assert scale(path, alpha=3.0) == 3 / RANK


@pytest.mark.parametrize(
    "init", ["pissa", "pissa_niter_16", "olora", "loftq", "corda", "lora_ga", "PiSSA", "something_new"]
)
def test_inits_that_change_the_base_are_refused(tmp_path, init):
    with pytest.raises(AdapterError, match=f"(?i){init}.*Convert"):
        read_adapter(file(tmp_path, LORA, adapter_config=CONFIG | {"init_lora_weights": init}))


@pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_inits_that_keep_the_base_load(tmp_path, init):
    assert scale(file(tmp_path, LORA, adapter_config=CONFIG | {"init_lora_weights": init})) == ALPHA / RANK


@pytest.mark.parametrize("peft_type", ["VERA", "IA3", "ADALORA", "HRA", "NEW_ONE"])
def test_other_peft_types_are_refused_by_name(tmp_path, peft_type):
    with pytest.raises(AdapterError, match=f"{peft_type}.*merge_and_unload"):
        read_adapter(file(tmp_path, LORA, adapter_config=CONFIG | {"peft_type": peft_type}))


def test_named_adapters_of_one_file(tmp_path):
    named = {
        f"base_model.model.{key.replace('.weight', f'.{name}.weight')}": value * factor
        for name, factor in (("default", 1.0), ("old", 2.0))
        for key, value in LORA.items()
    }
    path = file(tmp_path, named, adapter_config=CONFIG)
    ups = {name: read_adapter(path, name).changes[0].term.up for name in ("", "default", "old")}
    assert torch.equal(ups[""], ups["default"]) and torch.equal(ups["old"], 2 * ups["default"])
    with pytest.raises(AdapterError, match="default, old; there is none named 'new'"):
        read_adapter(path, "new")


@pytest.mark.parametrize("prefix", ["text_encoder.", "text_encoder_2.", "lora_te1_", "lora_te_", "text_encoders."])
def test_text_encoder_keys(tmp_path, prefix):
    path = file(tmp_path, LORA | {prefix + key: value for key, value in LORA.items()})
    with pytest.raises(AdapterError, match=r"2 of 4 keys change a text encoder.*Set `text_encoder` to ignore"):
        read_adapter(path)
    words, choice = read_adapter(path, "ignore text encoder"), read_adapter(path, ignore_text_encoder=True)
    assert words.ignored == choice.ignored and len(choice.changes) == 1 and len(choice.ignored) == 2


def test_tucker_and_dora_of_lycoris(tmp_path):
    """LoCon with a core, and LyCORIS' DoRA on the input axis."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    up, down, mid = draw(6, RANK, 1, 1), draw(RANK, 4, 1, 1), draw(RANK, RANK, 3, 3)
    dora, base = draw(1, 8), Layers().state_dict()
    path = file(
        tmp_path,
        {
            "lora_unet_conv.lora_up.weight": up,
            "lora_unet_conv.lora_down.weight": down,
            "lora_unet_conv.lora_mid.weight": mid,
            "lora_unet_conv.alpha": torch.tensor(3.0),
            "lora_unet_key.lora_up.weight": draw(6, RANK),
            "lora_unet_key.lora_down.weight": draw(RANK, 8),
            "lora_unet_key.alpha": torch.tensor(1.0),
            "lora_unet_key.dora_scale": dora,
        },
    )
    terms = {found.target.key: found.term for found in match(read_adapter(path), name_map(base))}
    expected = torch.einsum("or,rskl,si->oikl", up.flatten(1), mid, down.flatten(1)) * 3 / RANK
    assert torch.allclose(terms["conv.weight"].delta(), expected, atol=1e-5)
    whole = base["key.weight"] + terms["key.weight"].inner.delta()
    decomposed = dora * whole / whole.norm(dim=0, keepdim=True)
    assert torch.allclose(base["key.weight"] + terms["key.weight"].delta(base["key.weight"]), decomposed, atol=1e-5)


def test_full_differences(tmp_path):
    base = Layers().state_dict()
    path = file(
        tmp_path,
        LORA
        | {
            "key.diff": torch.ones(6, 8),
            "query.diff_b": torch.ones(12),
            "norm.w_norm": torch.ones(4),
            "norm.b_norm": torch.ones(4),
            "pointwise.set_weight": torch.ones(4, 6, 1, 1),
        },
    )
    after = changed(base, path)
    for key in ("key.weight", "query.bias", "norm.weight", "norm.bias"):
        assert torch.allclose(after[key], base[key] + 1)
    assert torch.allclose(after["pointwise.weight"], torch.ones(4, 6, 1, 1))


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"query.lora_A.weight": LORA["query.lora_A.weight"]}, "no up"),
        ({"query.hada_w1_a": torch.ones(12, 2), "query.hada_w1_b": torch.ones(2, 8)}, "no hada_w2_a"),
        ({"query.lokr_w1": torch.ones(2, 2)}, "no lokr_w2_a"),
        ({"query.weight": torch.ones(12, 8)}, "Load RLG Checkpoint Pair"),
        (LORA | {"query.alpha": torch.ones(3)}, "3 values"),
        (LORA | {"query.dora_scale": torch.ones(5)}, "do not fit together"),
        (LORA | {"query.lora_down.weight": torch.ones(2, 8)}, "two keys are the down"),
    ],
)
def test_incomplete_files_are_refused(tmp_path, tensors, message):
    with pytest.raises(AdapterError, match=message):
        read_adapter(file(tmp_path, tensors))


def test_values_are_checked(tmp_path):
    for bad in (float("nan"), float("inf"), -float("inf")):
        tensor = LORA["query.lora_A.weight"].clone()
        tensor[1, 3] = bad
        with pytest.raises(AdapterError, match="1 NaN or infinite values of 16"):
            read_adapter(file(tmp_path, LORA | {"query.lora_A.weight": tensor}))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
)
def test_dtypes(tmp_path, dtype):
    path = file(tmp_path, {name: tensor.to(dtype) for name, tensor in LORA.items()})
    term = read_adapter(path).changes[0].term
    expected = LORA["query.lora_B.weight"].to(dtype).float() @ LORA["query.lora_A.weight"].to(dtype).float()
    assert torch.allclose(term.delta(), expected, atol=1e-4)


def test_large_half_precision_values_are_finite(tmp_path):
    """A sum in half precision would overflow."""
    assert (
        scale(file(tmp_path, {name: torch.full_like(tensor, 60000.0).half() for name, tensor in LORA.items()})) == 1.0
    )


@pytest.mark.parametrize(
    "key, module, part, adapter",
    [
        ("base_model.model.a.to_q.lora_A.weight", "base_model.model.a.to_q", "down", None),
        ("base_model.model.a.to_q.lora_B.default.weight", "base_model.model.a.to_q", "up", "default"),
        ("a.lora_magnitude_vector", "a", "magnitude", None),
        ("a.lora_magnitude_vector.old.weight", "a", "magnitude", "old"),
        ("unet.a.processor.to_q_lora.up.weight", "unet.a.processor.to_q", "up", None),
        ("lora_unet_a.lora_down.weight", "lora_unet_a", "down", None),
        ("a.lora_A", "a", "down", None),
        ("a.hada_w1_a.default", "a", "hada_w1_a", "default"),
        ("a.scale_shift_table", "a.scale_shift_table", "parameter", None),
        ("transformer_2.a.lora_A.weight", "transformer_2.a", "down", "transformer_2"),
    ],
)
def test_keys(key, module, part, adapter):
    found = read_key(key)
    assert (found.module, found.part, found.adapter) == (module, part, adapter)


def test_spellings():
    assert list(spellings("unet.base_model.model.down.0")) == [
        "unet.base_model.model.down.0",
        "base_model.model.down.0",
        "down.0",
    ]
    assert list(spellings("lora_unet__blocks_0"))[-1] == "blocks_0"
