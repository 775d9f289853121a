"""The config of an adapter, which is kept beside its tensors: alpha, rank, and how the adapter was made.

Three kinds are read: PEFT's `adapter_config.json`, diffusers' header entry `lora_adapter_metadata`, and the
`lora_config.json` of the FLUX and Wan GRPO trainers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..algebra import ALGEBRAS, Algebra
from ..errors import AdapterError

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

NESTED_QUANTIFIERS = re.compile(r"\([^)]*[+*}][^)]*\)\s*[+*{]")


@dataclass(frozen=True)
class Recipe:
    """How an adapter's factors are scaled: `scale = alpha / rank`, or `alpha / sqrt(rank)` for rsLoRA.

    `source` says where this was read. `kind` and `targets` tell which adapters it fits, as far as they are known, and
    `options` whatever else it says.
    """

    source: str
    alpha: float
    rank: int | None = None
    kind: str | None = None
    targets: str | tuple[str, ...] | None = None
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    rslora: bool = False
    given: bool = False
    """Whether the user gave it, which overrides what the files say."""
    options: Mapping[str, Any] = field(default_factory=dict)

    def alpha_of(self, module: str) -> float:
        return self.alpha_pattern.get(_pattern(self.alpha_pattern, module), self.alpha)

    def rank_of(self, module: str) -> int | None:
        return self.rank_pattern.get(_pattern(self.rank_pattern, module), self.rank)

    def scale(self, module: str, rank: int) -> float:
        return self.alpha_of(module) / (math.sqrt(rank) if self.rslora else rank)

    def misfit(self, kind: str, modules: Mapping[str, int | None]) -> str | None:
        """Why this recipe does not fit an adapter with these modules and ranks, or None if it fits."""
        if self.kind is not None and self.kind != kind:
            return f"it describes a {self.kind} adapter, the file holds {kind}"
        for module, rank in modules.items():
            expected = self.rank_of(module)
            if rank is not None and expected is not None and rank != expected:
                return f"it says rank {expected}, but {module} has rank {rank}"
            if not self._targets(module):
                return f"its target_modules do not name {module}"
        return None

    def _targets(self, module: str) -> bool:
        if self.targets is None or self.targets == "all-linear":
            return True
        if isinstance(self.targets, str):
            return _compiled(self.targets).fullmatch(module) is not None
        ends = tuple(ending for target in self.targets for ending in ("." + target, "_" + target.replace(".", "_")))
        return module in self.targets or module.endswith(ends)


def _compiled(pattern: str) -> re.Pattern[str]:
    """Compiles one of PEFT's module patterns. Raises `AdapterError` for one that could run forever or is invalid."""
    if len(pattern) > 4096 or NESTED_QUANTIFIERS.search(pattern):
        raise AdapterError(
            f"adapter_config.json: the module pattern {pattern[:80]!r} nests quantifiers. List the modules instead."
        )
    try:
        return re.compile(pattern)
    except re.error as error:
        raise AdapterError(f"adapter_config.json: {pattern[:80]!r} is not a regular expression ({error}).") from error


def _pattern(patterns: Iterable[str], module: str) -> str | None:
    """The first of `patterns` that names `module`. PEFT's rule: a regular expression for the last parts of the name."""
    return next((key for key in patterns if _compiled(rf"(?:.*\.)?(?:{key})").fullmatch(module)), None)


def _number(source: str, config: Mapping[str, Any], name: str) -> float:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise AdapterError(f"{source}: expected a number for {name}, got {value!r}.")
    return float(value)


def _numbers(source: str, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    values = config.get(name) or {}
    if not isinstance(values, dict):
        raise AdapterError(f"{source}: expected modules and numbers for {name}, got {values!r}.")
    return {key: _number(f"{source}, {name}", values, key) for key in values}


def _targets(source: str, config: Mapping[str, Any]) -> str | tuple[str, ...] | None:
    targets = config.get("target_modules")
    if targets is None or isinstance(targets, str):
        return targets
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise AdapterError(f"{source}: expected a list of names for target_modules, got {targets!r}.")
    extra = config.get("modules_to_save") or []
    return (*targets, *(name for name in extra if isinstance(name, str)))


def _supported_algebra(source: str, config: Mapping[str, Any]) -> Algebra:
    """The algebra that a PEFT config describes. Raises `AdapterError`, naming the option, if it cannot be loaded."""
    peft_type = str(config.get("peft_type") or "LORA").upper()
    if peft_type not in PEFT_TYPES:
        raise AdapterError(
            f"{source}: PEFT type {peft_type} cannot be loaded ({', '.join(PEFT_TYPES)} can). Merge it into the model "
            "with PEFT's merge_and_unload, save the model, and use Load RLG Checkpoint Pair."
        )
    init = str(config.get("init_lora_weights", True)).lower()
    if peft_type == "LORA" and init not in PLAIN_INITS:
        raise AdapterError(
            f"{source}: init_lora_weights is {init!r}: such an adapter assumes base weights that were changed "
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
        int(_number(source, config, "r")),
        algebra.kind,
        _targets(source, config),
        _numbers(source, config, "alpha_pattern"),
        _numbers(source, config, "rank_pattern"),
        bool(config.get("use_rslora")),
    )


def trainer_recipe(source: str, config: Mapping[str, Any], component: str) -> Recipe:
    """The recipe in a `lora_config.json`: rank, alpha and targets under `lora_params`, which may list components."""
    params = config.get("lora_params", config)
    if isinstance(params, dict) and isinstance(params.get(component), dict):
        params = params[component]
    if not isinstance(params, dict):
        raise AdapterError(f"{source}: expected lora_params with lora_rank and lora_alpha, got {params!r}.")
    alpha, rank = (next((name for name in names if name in params), names[0]) for names in TRAINER_FIELDS)
    return Recipe(
        source, _number(source, params, alpha), int(_number(source, params, rank)), "lora", _targets(source, params)
    )


def read_json(path: Path) -> dict[str, Any]:
    try:
        return _object(str(path), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise AdapterError(f"{path}: cannot be read ({error}).") from error


def _object(source: str, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{source}: not valid JSON ({error}).") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{source}: expected a JSON object, got {type(config).__name__}.")
    return config


def header_config(path: Path, metadata: Mapping[str, str], component: str) -> dict[str, Any] | None:
    """diffusers' `lora_adapter_metadata` for one component (`transformer`, `unet`), or None if there is none."""
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return None
    config = _object(f"{path}, lora_adapter_metadata", text)
    own = {name.split(".", 1)[1]: value for name, value in config.items() if name.startswith(component + ".")}
    return own or (config if "r" in config else None)


def recipe_beside(path: Path, metadata: Mapping[str, str], component: str) -> Recipe | None:
    """The first recipe found in the header, `adapter_config.json` and `lora_config.json`, or None if there is none."""
    header = header_config(path, metadata, component)
    if header is not None:
        return peft_recipe(f"{path.name}, lora_adapter_metadata", header)
    peft, trainer = path.parent / "adapter_config.json", path.parent / "lora_config.json"
    if peft.is_file():
        return peft_recipe(str(peft), read_json(peft))
    if trainer.is_file():
        return trainer_recipe(str(trainer), read_json(trainer), component)
    return None
