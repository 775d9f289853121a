"""The scale of each module: from the alpha input, the file's `.alpha` tensors, or a config that is the file's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from ..algebra import algebra_of, is_dora, rank_of
from ..errors import AdapterError
from .beside import neighbour_recipe, own_recipe
from .config import kohya_recipe
from .container import TensorFile
from .files import STEM
from .keys import FIRST_COMPONENT, SECOND_COMPONENT, Key, spellings
from .recipe import Recipe

Modules = dict[str, dict[str, Tensor]]
"""The tensors of an adapter by module and part."""


def bare(module: str) -> str:
    """The module's name without any prefix, as configs write it."""
    return list(spellings(module))[-1]


def labels_of(modules: Modules) -> str:
    """The algebras that a file holds."""
    labels = {algebra.label if (algebra := algebra_of(parts)) else "full tensors" for parts in modules.values()}
    return ", ".join(sorted(labels | ({"DoRA"} if any(map(is_dora, modules.values())) else set())))


def ranks_of(modules: Modules) -> tuple[int, ...]:
    return tuple(sorted({rank for parts in modules.values() if (rank := rank_of(parts)) is not None}))


def scale_of(module: str, parts: Mapping[str, Tensor], recipe: Recipe | None) -> float:
    rank = rank_of(parts)
    if recipe is not None and (recipe.given or "alpha" not in parts):
        rank = rank or recipe.rank
        return recipe.scale(bare(module), rank) if rank else 1.0
    # LyCORIS does not scale a LoKr with two full factors.
    return float(parts["alpha"]) / rank if "alpha" in parts and rank else 1.0


def chosen_recipe(
    file: TensorFile, modules: Modules, keys: Mapping[str, Key], alpha: float, name: str
) -> Recipe | None:
    """Where the scale comes from: the alpha input, `.alpha` tensors (None), a config, or an assumption (None).

    Raises `AdapterError` for a config of another file, and where only the user knows whose a config is.
    """
    factored = {module: parts for module, parts in modules.items() if algebra_of(parts)}
    if alpha == 0 and all("alpha" in parts for parts in factored.values()):
        return None
    component, is_peft = _component(keys, name), _is_peft(file, keys)
    own = own_recipe(file, is_peft, component)
    misfit = None if own is None else _misfit(own, factored)
    scaled = {module: parts for module, parts in factored.items() if algebra_of(parts).scaled}
    if alpha != 0 and factored and not scaled:
        raise AdapterError(f"{file.path}: no alpha scales {labels_of(modules)}. Set the `alpha` input to 0.")
    if alpha != 0:
        return Recipe("the alpha input", alpha, rslora=own is not None and misfit is None and own.rslora, given=True)
    own = own or kohya_recipe(file.path.name, file.metadata)
    misfit = None if own is None else _misfit(own, factored)
    if misfit is not None:
        raise AdapterError(
            f"{file.path}: {own.source} is not of this file: {misfit}. Put the right one there, keep one "
            "adapter per folder, or set the `alpha` input."
        )
    if own is None and is_peft and scaled:
        raise AdapterError(
            f"{file.path}: a PEFT adapter keeps its alpha in adapter_config.json, and there is none (nor a "
            "lora_config.json) beside it. Put it there, or set the `alpha` input (the rank is "
            f"{_listed(ranks_of(factored))}; alpha is usually 1x or 2x the rank)."
        )
    if own is None and scaled:
        _require_no_question(file, factored, component)
    return own


def _require_no_question(file: TensorFile, factored: Modules, component: str) -> None:
    """Raises `AdapterError` if a config in the folder, not surely this file's, would change its strength."""
    try:
        other = neighbour_recipe(file.path, component)
    except AdapterError as error:
        raise AdapterError(
            _question(file.path, factored, f"The config beside it cannot be used: {error.first_line}")
        ) from error
    if other is None or _misfit(other, factored) is not None:
        return
    scales = {scale_of(module, parts, other) for module, parts in factored.items() if "alpha" not in parts}
    if scales - {1.0}:
        would = f"{other.source} fits it and would apply it at {_listed(sorted(scales)[:3])}x."
        raise AdapterError(_question(file.path, factored, would))


def _question(path: Path, factored: Modules, found: str) -> str:
    return (
        f"{path}: it gives no alpha. {found} That config may be another file's: if it is this one's, rename it to "
        f"{path.stem}_config.json; if not, set the `alpha` input to the rank, {_listed(ranks_of(factored))}."
    )


def _component(keys: Mapping[str, Key], name: str) -> str:
    if name == SECOND_COMPONENT:
        return name
    return "unet" if any(key.module.startswith("unet.") for key in keys.values()) else FIRST_COMPONENT


def _misfit(recipe: Recipe, factored: Modules) -> str | None:
    ranks: dict[str, dict[str, int | None]] = {}
    for module, parts in factored.items():
        ranks.setdefault(algebra_of(parts).kind, {})[bare(module)] = rank_of(parts)
    return next((reason for kind, own in ranks.items() if (reason := recipe.misfit(kind, own))), None)


def _is_peft(file: TensorFile, keys: Mapping[str, Key]) -> bool:
    """Whether PEFT named the file or its keys."""
    return file.path.stem.startswith(STEM) or any(
        "base_model.model." in key.module or key.adapter not in (None, FIRST_COMPONENT, SECOND_COMPONENT)
        for key in keys.values()
    )


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)
