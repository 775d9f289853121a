"""Reads an adapter file: which modules it changes, by which terms, at which scale, and where the scale comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..algebra import Term, rank_of, terms_of
from ..errors import AdapterError, require_number, shortened
from .container import OpenFile, TensorFile, check_values, open_tensors
from .files import DEFAULT, find_file
from .keys import FIRST_COMPONENT, FUSED, SECOND_COMPONENT, UNCHANGED, Key, read_key
from .recipe import Recipe
from .scaling import Modules, chosen_recipe, ranks_of, scale_of
from .summary import alpha_source, alphas_of, format_of

IGNORE_TEXT_ENCODER = "ignore text encoder"
FROZEN = ".pos_embed.pos_embed"
"""How the name of a table ends that the base has beside its weights. Raw state dicts of PEFT hold it unchanged."""


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
    """The loader's choice: an adapter's name, and whether text-encoder keys are ignored on purpose.

    Graphs of the time before `text_encoder` was an input say the latter in the `adapter` text.
    """

    name: str = ""
    ignore_text_encoder: bool = False

    @classmethod
    def parse(cls, text: str, ignore_text_encoder: bool = False) -> Choice:
        words = [word.strip() for word in text.split(",") if word.strip()]
        names = [word for word in words if word.lower() != IGNORE_TEXT_ENCODER]
        if len(names) > 1:
            raise AdapterError(
                f"adapter: expected the name of one adapter and perhaps {IGNORE_TEXT_ENCODER!r}, got {shortened(text)}."
            )
        return cls(names[0] if names else "", ignore_text_encoder or len(names) < len(words))


def read_adapter(path: Path, adapter: str = "", alpha: float = 0.0, ignore_text_encoder: bool = False) -> Adapter:
    """The adapter in the file or PEFT folder `path`, at `alpha`, or at what the files say if that is 0.

    Its tensors are in memory. Raises `AdapterError` for anything that cannot be loaded whole and at its true strength.
    """
    choice = Choice.parse(adapter, ignore_text_encoder)
    found = _found(path, choice, alpha, OpenFile.read)
    file, modules, recipe = found.file, found.modules, found.recipe
    changes = tuple(change for module in modules for change in _changes(file, module, modules[module], recipe))
    return Adapter(
        file,
        choice.name or found.name,
        format_of(found.keys, modules),
        changes,
        ranks_of(modules),
        alphas_of(modules, recipe),
        alpha_source(modules, recipe),
        found.ignored,
    )


def check_adapter(path: Path, adapter: str = "", alpha: float = 0.0, ignore_text_encoder: bool = False) -> None:
    """Raises `AdapterError` where `read_adapter` would, as far as the header and the configs beside the file tell it.

    No tensor is read, so this is quick.
    """
    _found(path, Choice.parse(adapter, ignore_text_encoder), alpha, OpenFile.blank)


@dataclass(frozen=True)
class _Found:
    """One adapter of a file: its tensors and how they are scaled, before terms are made of them."""

    file: TensorFile
    name: str
    keys: dict[str, Key]
    modules: Modules
    recipe: Recipe | None
    ignored: tuple[str, ...]


def _found(path: Path, choice: Choice, alpha: float, read: Callable[[OpenFile, str], Tensor]) -> _Found:
    """The adapter that `choice` names, its tensors as `read` gives them."""
    require_number("alpha", alpha, 0.0)
    path, chosen_by_folder = find_file(path, choice.name)
    with open_tensors(path) as opened:
        keys = {name: read_key(name) for name in opened.entries}
        keys, name = _chosen_adapter(path, keys, "" if chosen_by_folder else choice.name)
        keys, ignored = _without_text_encoder(path, keys, choice.ignore_text_encoder)
        keys = _changing(path, keys)
        file = TensorFile(path, {name: read(opened, name) for name in keys}, opened.metadata)
    modules = _modules(file, keys)
    return _Found(file, name, keys, modules, chosen_recipe(file, modules, keys, alpha, name), ignored)


def _chosen_adapter(path: Path, keys: dict[str, Key], wanted: str) -> tuple[dict[str, Key], str]:
    """The keys of one adapter in the file, including those that all its adapters share, and the adapter's name."""
    if any(key.adapter == SECOND_COMPONENT for key in keys.values()):
        keys = {name: key if key.adapter else replace(key, adapter=FIRST_COMPONENT) for name, key in keys.items()}
    names = sorted({key.adapter for key in keys.values() if key.adapter})
    chosen = wanted or next(
        (name for name in (DEFAULT, FIRST_COMPONENT) if name in names), names[0] if len(names) == 1 else ""
    )
    if names and chosen not in names or not names and wanted not in ("", DEFAULT):
        raise AdapterError(
            f"{path}: it holds {'the adapters ' + ', '.join(names) if names else 'one adapter without a name'}; "
            + (f"there is none named {shortened(wanted)}." if wanted else "name one of them in `adapter`.")
        )
    return {name: key for name, key in keys.items() if key.adapter in (None, chosen)}, chosen or DEFAULT


def _without_text_encoder(path: Path, keys: dict[str, Key], ignore: bool) -> tuple[dict[str, Key], tuple[str, ...]]:
    found = [name for name, key in keys.items() if key.is_text_encoder]
    if found and not ignore:
        raise AdapterError(
            f"{path}: {len(found)} of {len(keys)} keys change a text encoder ({', '.join(found[:3])}), which a "
            "MODEL does not have. Set `text_encoder` to ignore to load the rest, and apply the file to the CLIP with "
            "a stock LoRA loader."
        )
    rest = {name: key for name, key in keys.items() if not key.is_text_encoder}
    if not rest:
        raise AdapterError(f"{path}: every key changes a text encoder; it holds nothing for a diffusion model.")
    return rest, tuple(found)


def _changing(path: Path, keys: dict[str, Key]) -> dict[str, Key]:
    """The keys of what the adapter changes. Raises `AdapterError` for a full checkpoint."""
    is_raw = any(key.part == UNCHANGED for key in keys.values())
    frozen = [name for name, key in keys.items() if key.part == UNCHANGED or is_raw and name.endswith(FROZEN)]
    if not any(key.part not in (UNCHANGED, "weight", "bias", "parameter") for key in keys.values()):
        raise AdapterError(
            f"{path}: it holds full weights ({', '.join(list(keys)[:3])}), not an adapter. "
            "Load a fine-tuned checkpoint with Load RLG Checkpoint Pair."
        )
    return {name: key for name, key in keys.items() if name not in frozen}


def _modules(file: TensorFile, keys: Mapping[str, Key]) -> Modules:
    """The tensors by module and part. Raises `AdapterError` for duplicate parts and bad values."""
    modules: Modules = {}
    for name, key in keys.items():
        parts = modules.setdefault(key.module, {})
        if key.part in parts:
            raise AdapterError(f"{file.path}: two keys are the {key.part} of {key.module}; one is {name}.")
        # Some converters write alpha as an integer.
        tensor = file.tensors[name].float() if key.part == "alpha" else file.tensors[name]
        if not tensor.is_meta:
            check_values(file.path, name, tensor)
        parts[key.part] = tensor
    return dict(separate for module, parts in modules.items() for separate in _separated(file.path, module, parts))


def _separated(path: Path, module: str, parts: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """A module and its parts; or the three that it stands for, which share `down` and have a third of `up` each."""
    if not module.endswith(FUSED):
        yield module, parts
    elif parts.keys() != {"up", "down"} or parts["up"].ndim == 0 or parts["up"].shape[0] % 3:
        came = ", ".join(f"{part} {list(value.shape)}" for part, value in sorted(parts.items()))
        raise AdapterError(
            f"{path}: {module}: expected up and down weights for query, key and value (up of 3 x n rows), got {came}."
        )
    else:
        for name, up in zip(FUSED.split("+"), parts["up"].chunk(3)):
            yield module.removesuffix(FUSED) + name, parts | {"up": up}


def _changes(file: TensorFile, module: str, parts: Mapping[str, Tensor], recipe: Recipe | None) -> list[Change]:
    if "alpha" in parts and parts["alpha"].numel() != 1:
        raise AdapterError(f"{file.path}: {module}.alpha has {parts['alpha'].numel()} values, expected one.")
    if rank_of(parts) == 0:
        raise AdapterError(f"{file.path}: {module} has rank 0, expected at least 1.")
    try:
        scale = scale_of(module, parts, recipe)
        terms = terms_of(parts, scale, {**file.metadata, **(recipe.options if recipe else {})})
        return [Change(module, parameter, term, scale) for parameter, term in terms.items()]
    except AdapterError as error:
        raise AdapterError(f"{file.path}: {module}: {error}") from error
