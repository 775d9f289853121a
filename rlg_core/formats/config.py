"""What the configs of adapters say: alpha, rank, and how the adapter was made.

Three kinds are read: PEFT's (`adapter_config.json`, and diffusers' header entry `lora_adapter_metadata`), those of the
FLUX and Wan GRPO trainers (`lora_config.json`), and kohya's header entries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..algebra import ALGEBRAS, Algebra
from ..errors import LARGEST, AdapterError, shortened
from .recipe import Recipe

PEFT_TYPES: dict[str, Algebra] = {algebra.peft_type: algebra for algebra in ALGEBRAS if algebra.peft_type}
"""The adapter types of PEFT that can be loaded."""

CONVERT = (
    "Convert it to a plain LoRA in its trainer: PEFT's save_pretrained(folder, "
    "path_initial_model_for_weight_conversion=...) does it for PiSSA, CorDA and OLoRA."
)

PLAIN_INITS = ("true", "false", "gaussian", "eva", "orthogonal", "mica", "none")
"""Initialisations that leave the base weights unchanged (peft/tuners/lora/layer.py)."""

REFUSED_OPTIONS = {
    "use_qalora": "QALoRA pools the inputs of quantised layers",
    "layer_replication": "layer replication makes a deeper model",
    "fan_in_fan_out": "fan_in_fan_out stores transposed weights",
    "trainable_token_indices": "trainable tokens are not part of a diffusion model",
    "target_parameters": "target_parameters adapts bare parameters",
    "alora_invocation_tokens": "activated LoRA applies to some tokens only",
    "monteclora_config": "MonteCLoRA samples its weights",
    "use_bdlora": "block-diagonal LoRA is not a plain LoRA",
    "arrow_config": "Arrow routes between several adapters",
    "kasa_config": "KaSA truncates the base weights",
    "velora_config": "VeLoRA compresses activations",
}

TRAINER_FIELDS = (("lora_alpha", "alpha"), ("lora_rank", "r", "rank"))
"""The names that trainers give alpha and rank in `lora_config.json`."""

KOHYA_ALPHA, KOHYA_RANK = ("ss_network_alpha", "network_alpha"), ("ss_network_dim", "network_dim")
KOHYA_OPTIONS = ("conv_alpha", "rs_lora")
"""Options of kohya's and LyCORIS' networks by which alpha or its meaning differs from layer to layer."""

Number = TypeVar("Number", int, float)

MEBIBYTES = 16
"""How large a config may be."""


def _number(source: str, config: Mapping[str, Any], name: str) -> float:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -LARGEST <= value <= LARGEST:
        raise AdapterError(f"{source}: expected a number for {name}, got {shortened(value)}.")
    return float(value)


def _rank(source: str, config: Mapping[str, Any], name: str) -> int:
    value = _number(source, config, name)
    if value < 1 or value != int(value):
        raise AdapterError(f"{source}: expected a whole number of at least 1 for {name}, got {shortened(value)}.")
    return int(value)


def _by_module(read: Callable[..., Number], source: str, config: Mapping[str, Any], name: str) -> dict[str, Number]:
    values = config.get(name) or {}
    if not isinstance(values, dict):
        raise AdapterError(f"{source}: expected modules and numbers for {name}, got {shortened(values)}.")
    return {key: read(f"{source}, {name}", {shortened(key): value}, shortened(key)) for key, value in values.items()}


def _names(source: str, config: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = config.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise AdapterError(f"{source}: expected a list of names for {name}, got {shortened(values)}.")
    return tuple(values)


def _targets(source: str, config: Mapping[str, Any]) -> str | tuple[str, ...] | None:
    saved, targets = _names(source, config, "modules_to_save"), config.get("target_modules")
    if targets is None or isinstance(targets, str):
        return targets
    return _names(source, config, "target_modules") + saved


def _supported_algebra(source: str, config: Mapping[str, Any]) -> Algebra:
    """The algebra that a PEFT config describes. Raises `AdapterError`, naming the option, if it cannot be loaded."""
    peft_type = str(config.get("peft_type") or "LORA").upper()
    if peft_type not in PEFT_TYPES:
        raise AdapterError(
            f"{source}: PEFT type {peft_type[:80]} cannot be loaded ({', '.join(PEFT_TYPES)} can). Merge it into the "
            "model with PEFT's merge_and_unload, save the model, and use Load RLG Checkpoint Pair."
        )
    init = str(config.get("init_lora_weights", True)).lower()
    if peft_type == "LORA" and init not in PLAIN_INITS:
        raise AdapterError(
            f"{source}: init_lora_weights is {shortened(init)}: such an adapter assumes base weights that were changed "
            f"when it was made, so it cannot be added to the original ones. {CONVERT}"
        )
    for option, why in REFUSED_OPTIONS.items():
        if config.get(option):
            raise AdapterError(f"{source}: {option} is set ({why}); such adapters cannot be loaded. {CONVERT}")
    return PEFT_TYPES[peft_type]


def peft_recipe(source: str, config: Mapping[str, Any]) -> Recipe:
    """The recipe in a PEFT config. diffusers' header entry has the same form."""
    algebra = _supported_algebra(source, config)
    if not algebra.scaled:
        return Recipe(source, 1.0, None, algebra.kind, _targets(source, config), options=config)
    return Recipe(
        source,
        _number(source, config, algebra.peft_alpha),
        _rank(source, config, "r"),
        algebra.kind,
        _targets(source, config),
        _by_module(_number, source, config, "alpha_pattern"),
        _by_module(_rank, source, config, "rank_pattern"),
        bool(config.get("use_rslora")),
    )


def trainer_recipe(source: str, config: Mapping[str, Any], component: str) -> Recipe:
    """The recipe in a `lora_config.json`: rank, alpha and targets under `lora_params`, which may list components."""
    params = config.get("lora_params", config)
    if isinstance(params, dict) and isinstance(params.get(component), dict):
        params = params[component]
    if not isinstance(params, dict):
        raise AdapterError(f"{source}: expected lora_params with lora_rank and lora_alpha, got {shortened(params)}.")
    alpha, rank = (next((name for name in names if name in params), names[0]) for names in TRAINER_FIELDS)
    return Recipe(source, _number(source, params, alpha), _rank(source, params, rank), "lora", _targets(source, params))


def kohya_recipe(source: str, header: Mapping[str, str]) -> Recipe | None:
    """The recipe in the header entries of kohya's trainers (`ss_network_alpha`), or None if there is no alpha.

    Their files hold `.alpha` tensors too, which count first; converters often drop those and keep the header.
    """
    name = next((name for name in KOHYA_ALPHA if name in header), None)
    if name is None:
        return None
    if any(option in header.get("ss_network_args", "") for option in KOHYA_OPTIONS):
        raise AdapterError(
            f"{source}: ss_network_args gives some layers a scale of their own, and the file's .alpha tensors, which "
            "would say it, are gone. Use the file as its trainer wrote it, or set the `alpha` input."
        )
    numbers = {entry: _parsed(header[entry]) for entry in (name, *KOHYA_RANK) if entry in header}
    if numbers[name] is None:
        raise AdapterError(f"{source}: {name} is {shortened(header[name])}, which is no number. Set the `alpha` input.")
    rank = next((entry for entry in KOHYA_RANK if numbers.get(entry) is not None), None)
    return Recipe(
        f"{source}, {name}",
        _number(source, numbers, name),
        None if rank is None else _rank(source, numbers, rank),
    )


def _parsed(text: str) -> float | None:
    """The number in a header entry, or None for a word such as `Dynamic`."""
    try:
        return float(text)
    except ValueError:
        return None


def described(source: str, config: Mapping[str, Any], component: str) -> Recipe | None:
    """The recipe in a config of any kind, or None if it says nothing about an adapter."""
    if "peft_type" in config or {"r", "lora_alpha"} <= config.keys():
        return peft_recipe(source, config)
    if "lora_params" in config or all(any(name in config for name in names) for names in TRAINER_FIELDS):
        return trainer_recipe(source, config, component)
    return None


def read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MEBIBYTES * 2**20:
            raise AdapterError(f"{path}: expected a config of at most {MEBIBYTES} MiB.")
        return parse_object(str(path), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path}: cannot be read ({error}).") from error


def parse_object(source: str, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{source}: not valid JSON ({error}).") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{source}: expected a JSON object, got {type(config).__name__}.")
    return config
