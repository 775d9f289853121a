"""Reads an adapter file: which modules it changes, by which terms, at which scale, and where the scale comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..algebra import Term, algebra_of, is_dora, rank_of, terms_of
from ..errors import AdapterError
from . import config
from .container import TensorFile, check_values, open_tensors
from .files import DEFAULT, STEM, find_file
from .keys import UNCHANGED, Key, read_key, spellings

IGNORE_TEXT_ENCODER = "ignore text encoder"
FIRST_COMPONENT, SECOND = "transformer", "transformer_2"

Modules = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Change:
    """What an adapter does to one parameter.

    `module` is as the file names it; `parameter` is weight or bias, or empty if `module` is itself the parameter.
    """

    module: str
    parameter: str
    term: Term
    scale: float


@dataclass(frozen=True)
class Adapter:
    """A whole adapter: its changes, and what a report says about it."""

    file: TensorFile
    name: str
    format: str
    changes: tuple[Change, ...]
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    alpha_source: str
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """The loader's `adapter` text: an adapter's name, and whether text-encoder keys are ignored on purpose."""

    name: str = ""
    ignore_text_encoder: bool = False

    @classmethod
    def parse(cls, text: str) -> Choice:
        words = [word.strip() for word in text.split(",") if word.strip()]
        names = [word for word in words if word.lower() != IGNORE_TEXT_ENCODER]
        if len(names) > 1:
            raise AdapterError(
                f"adapter: expected the name of one adapter and perhaps {IGNORE_TEXT_ENCODER!r}, got {text!r}."
            )
        return cls(names[0] if names else "", len(names) < len(words))


def read_adapter(path: Path, adapter: str = "", alpha: float = 0.0) -> Adapter:
    """The adapter in the file or PEFT folder `path`, at `alpha`, or at what the files say if that is 0.

    Raises `AdapterError` for anything that cannot be loaded whole and at its true strength.
    """
    choice = Choice.parse(adapter)
    path, chosen_by_folder = find_file(path, choice.name)
    file = open_tensors(path)
    keys = {name: read_key(name) for name in file.tensors}
    keys, name = _chosen_adapter(path, keys, "" if chosen_by_folder else choice.name)
    keys, ignored = _without_text_encoder(path, keys, choice.ignore_text_encoder)
    modules = _modules(file, keys)
    recipe = _recipe(file, modules, keys, alpha, name)
    changes = tuple(change for module in modules for change in _changes(file, module, modules[module], recipe))
    return Adapter(
        file,
        choice.name or name,
        _format(keys, modules),
        changes,
        _ranks(modules),
        _alphas(modules, recipe),
        _alpha_source(modules, recipe),
        ignored,
    )


def _chosen_adapter(path: Path, keys: dict[str, Key], wanted: str) -> tuple[dict[str, Key], str]:
    """The keys of one adapter in the file, including those that all its adapters share, and the adapter's name."""
    if any(key.adapter == SECOND for key in keys.values()):
        keys = {name: key if key.adapter else replace(key, adapter=FIRST_COMPONENT) for name, key in keys.items()}
    names = sorted({key.adapter for key in keys.values() if key.adapter})
    chosen = wanted or next(
        (name for name in (DEFAULT, FIRST_COMPONENT) if name in names), names[0] if len(names) == 1 else ""
    )
    if names and chosen not in names or not names and wanted not in ("", DEFAULT):
        raise AdapterError(
            f"{path}: it holds {'the adapters ' + ', '.join(names) if names else 'one adapter without a name'}; "
            + (f"there is none named {wanted!r}." if wanted else "name one of them in `adapter`.")
        )
    return {name: key for name, key in keys.items() if key.adapter in (None, chosen)}, chosen or DEFAULT


def _without_text_encoder(path: Path, keys: dict[str, Key], ignore: bool) -> tuple[dict[str, Key], tuple[str, ...]]:
    found = [name for name, key in keys.items() if key.is_text_encoder]
    if found and not ignore:
        raise AdapterError(
            f"{path}: {len(found)} of {len(keys)} keys change a text encoder ({', '.join(found[:3])}), which a "
            f"MODEL does not have. Write {IGNORE_TEXT_ENCODER!r} into `adapter` to load the rest, and apply the "
            "file to the CLIP with a stock LoRA loader."
        )
    rest = {name: key for name, key in keys.items() if not key.is_text_encoder}
    if not rest:
        raise AdapterError(f"{path}: every key changes a text encoder; it holds nothing for a diffusion model.")
    return rest, tuple(found)


def _modules(file: TensorFile, keys: Mapping[str, Key]) -> Modules:
    """The tensors by module and part. Raises `AdapterError` for full checkpoints, duplicate parts and bad values."""
    modules: Modules = {}
    for name, key in keys.items():
        if key.part == UNCHANGED:
            continue
        parts = modules.setdefault(key.module, {})
        if key.part in parts:
            raise AdapterError(f"{file.path}: two keys are the {key.part} of {key.module}; one is {name}.")
        # Some converters write alpha as an integer.
        tensor = file.tensors[name].float() if key.part == "alpha" else file.tensors[name]
        check_values(file.path, name, tensor)
        parts[key.part] = tensor
    if not any(part not in ("weight", "bias", "parameter") for parts in modules.values() for part in parts):
        raise AdapterError(
            f"{file.path}: it holds full weights ({', '.join(list(keys)[:3])}), not an adapter. "
            "Load a fine-tuned checkpoint with Load RLG Checkpoint Pair."
        )
    return modules


def _bare(module: str) -> str:
    return list(spellings(module))[-1]


def _recipe(
    file: TensorFile, modules: Modules, keys: Mapping[str, Key], alpha: float, name: str
) -> config.Recipe | None:
    """Where the scale comes from: the alpha input, `.alpha` tensors (None), a config, or an assumption (None)."""
    factored = {module: parts for module, parts in modules.items() if algebra_of(parts)}
    if alpha == 0 and all("alpha" in parts for parts in factored.values()):
        return None
    component = (
        SECOND if name == SECOND else "unet" if any(key.startswith("unet.") for key in keys) else FIRST_COMPONENT
    )
    found = config.recipe_beside(file.path, file.metadata, component)
    if found is not None:
        misfit = _misfit(found, factored)
        if misfit is not None and alpha == 0:
            raise AdapterError(
                f"{file.path}: {found.source} is not of this file: {misfit}. Put the right one there, keep one "
                "adapter per folder, or set the `alpha` input."
            )
        found = None if misfit is not None else found
    scaled = [parts for parts in factored.values() if algebra_of(parts).scaled]
    if alpha != 0 and factored and not scaled:
        raise AdapterError(f"{file.path}: no alpha scales {_labels(modules)}. Set the `alpha` input to 0.")
    if alpha != 0:
        return config.Recipe("the alpha input", alpha, rslora=found is not None and found.rslora, given=True)
    if found is None and scaled and _is_peft(file.path, keys):
        ranks = ", ".join(map(str, _ranks(modules)))
        raise AdapterError(
            f"{file.path}: a PEFT adapter keeps its alpha in adapter_config.json, and there is none (nor a "
            f"lora_config.json) in {file.path.parent}. Put it there, or set the `alpha` input (the rank is "
            f"{ranks}; alpha is usually 1x or 2x the rank)."
        )
    return found


def _misfit(recipe: config.Recipe, factored: Modules) -> str | None:
    ranks: dict[str, dict[str, int | None]] = {}
    for module, parts in factored.items():
        ranks.setdefault(algebra_of(parts).kind, {})[_bare(module)] = rank_of(parts)
    return next((reason for kind, own in ranks.items() if (reason := recipe.misfit(kind, own))), None)


def _is_peft(path: Path, keys: Mapping[str, Key]) -> bool:
    return path.stem == STEM or any(
        name.startswith("base_model.model.") or key.adapter not in (None, FIRST_COMPONENT, SECOND)
        for name, key in keys.items()
    )


def _scale(module: str, parts: Mapping[str, Tensor], recipe: config.Recipe | None) -> float:
    rank = rank_of(parts)
    if recipe is not None and (recipe.given or "alpha" not in parts):
        rank = rank or recipe.rank
        return recipe.scale(_bare(module), rank) if rank else 1.0
    # LyCORIS does not scale a LoKr with two full factors.
    return float(parts["alpha"]) / rank if "alpha" in parts and rank else 1.0


def _changes(file: TensorFile, module: str, parts: Mapping[str, Tensor], recipe: config.Recipe | None) -> list[Change]:
    if "alpha" in parts and parts["alpha"].numel() != 1:
        raise AdapterError(f"{file.path}: {module}.alpha has {parts['alpha'].numel()} values, expected one.")
    try:
        scale = _scale(module, parts, recipe)
        terms = terms_of(parts, scale, {**file.metadata, **(recipe.options if recipe else {})})
        return [Change(module, parameter, term, scale) for parameter, term in terms.items()]
    except AdapterError as error:
        raise AdapterError(f"{file.path}: {module}: {error}") from error


def _ranks(modules: Modules) -> tuple[int, ...]:
    return tuple(sorted({rank for parts in modules.values() if (rank := rank_of(parts)) is not None}))


def _alphas(modules: Modules, recipe: config.Recipe | None) -> tuple[float, ...]:
    factored = {m: parts for m, parts in modules.items() if (algebra := algebra_of(parts)) and algebra.scaled}
    return tuple(
        sorted(
            {
                _scale(module, parts, recipe) * (rank_of(parts) or 1)
                if recipe is None or not recipe.rslora
                else recipe.alpha_of(_bare(module))
                for module, parts in factored.items()
            }
        )
    )


def _alpha_source(modules: Modules, recipe: config.Recipe | None) -> str:
    factored = [parts for parts in modules.values() if algebra_of(parts)]
    if factored and not any(algebra_of(parts).scaled for parts in factored):
        return f"nowhere: none scales {_labels(modules)}"
    if recipe is not None:
        return recipe.source + (" (rsLoRA: alpha / sqrt(rank))" if recipe.rslora else "")
    if not factored:
        return "nowhere: full tensors have no alpha"
    with_alpha = sum("alpha" in parts for parts in factored)
    without = len(factored) - with_alpha
    if with_alpha and without:
        return f"the file's .alpha tensors; {without} modules have none, and scale 1 is assumed for them"
    return "the file's .alpha tensors" if with_alpha else "nowhere: no file gives it, so scale 1 is assumed"


FORMATS = (
    ("base_model.model.", "PEFT"),
    ("unet.base_model.model.", "PEFT"),
    ("lora_unet_", "kohya"),
    ("lora_transformer_", "OneTrainer"),
    ("lycoris_", "LyCORIS"),
    ("transformer.", "diffusers"),
    ("transformer_2.", "diffusers"),
    ("unet.", "diffusers"),
    ("diffusion_model.", "ComfyUI"),
)


def _format(keys: Mapping[str, Key], modules: Modules) -> str:
    """For the report: which tool writes such names, and which algebras the file holds."""
    writer = next((label for prefix, label in FORMATS for name in keys if name.startswith(prefix)), "bare names")
    if any(key.adapter not in (None, FIRST_COMPONENT, SECOND) for key in keys.values()):
        writer = "PEFT, raw state dict"
    return f"{writer} ({_labels(modules)})"


def _labels(modules: Modules) -> str:
    """The algebras that a file holds."""
    labels = {algebra.label if (algebra := algebra_of(parts)) else "full tensors" for parts in modules.values()}
    return ", ".join(sorted(labels | ({"DoRA"} if any(map(is_dora, modules.values())) else set())))
