"""An adapter as a PEFT folder, under diffusers' names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..algebra import LowRank, Placed
from ..errors import AdapterError
from ..names import NameMap, Target
from .low_rank import Changes, summed

PREFIX = "base_model.model."


def peft_adapter(changes: Changes, names: NameMap) -> tuple[dict[str, Tensor], dict[str, object]]:
    """The tensors of a PEFT adapter under diffusers' names, and its `adapter_config.json`.

    Raises `AdapterError` for changes that a PEFT LoRA cannot hold, and for weights without a name in diffusers.
    """
    sources: dict[str, list[tuple[str, Target]]] = {}
    for name, target in names.source_names():
        sources.setdefault(target.key, []).append((name, target))
    modules: dict[str, LowRank] = {}
    for key, placed in changes.items():
        modules |= _modules(key, placed, _separate(sources.get(key, [])))
    tensors = {}
    for name, term in modules.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = term.down
        tensors[f"{PREFIX}{name}.lora_B.weight"] = term.up.reshape(*term.up.shape, *[1] * (term.down.ndim - 2))
    return tensors, _config(modules)


def _modules(key: str, placed: Sequence[Placed], sources: Sequence[tuple[str, Target]]) -> dict[str, LowRank]:
    """The changes of one weight, by the names of the modules that diffusers has in its place."""
    for change in placed:
        if not isinstance(change.term, LowRank):
            kind = type(change.term).__name__
            raise AdapterError(f"{key}: a PEFT LoRA cannot hold a {kind} change. Save it in the comfyui format.")
    found = {name: term for name, target in sources if (term := _of_source(placed, target)) is not None}
    if not found:
        raise AdapterError(f"{key}: this weight has no name in diffusers. Save it in the comfyui format.")
    return found


def _separate(sources: Sequence[tuple[str, Target]]) -> list[tuple[str, Target]]:
    """The first name of each cut of a weight, or of the whole weight if nothing cuts it."""
    first: dict[tuple[int, int] | None, tuple[str, Target]] = {}
    for name, target in sources:
        first.setdefault(target.cut, (name, target))
    return [named for cut, named in first.items() if cut is not None] or list(first.values())


def _of_source(placed: Sequence[Placed], target: Target) -> LowRank | None:
    """The change of one source module, or None if it is unchanged."""
    first, length = target.cut or (0, target.shape[0])
    inside = [change for change in placed if _overlaps(change, first, length)]
    if not inside:
        return None
    if len(inside) == 1 and inside[0].at == (None if target.cut is None else (0, first, length)):
        term = summed([replace(inside[0], at=None)], (length, *target.shape[1:]))
    else:
        term = summed(inside, target.shape)
        term = replace(term, up=term.up.narrow(0, first, length))
    return term.swapped() if target.swapped else term


def _overlaps(change: Placed, first: int, length: int) -> bool:
    """Whether `change` concerns any of the rows `[first, first + length)`."""
    if change.at is None or change.at[0] != 0:
        return True
    _, start, size = change.at
    return start < first + length and first < start + size


def _config(modules: Mapping[str, LowRank]) -> dict[str, object]:
    """The config as PEFT writes it; ranks and alphas that differ from the most common ones are listed by module."""
    ranks = {name: term.rank for name, term in modules.items()}
    alphas = {name: term.scale * term.rank for name, term in modules.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "target_modules": sorted(modules),
        "rank_pattern": {_exactly(name): own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {_exactly(name): own for name, own in alphas.items() if own != alpha},
    }


def _exactly(name: str) -> str:
    """PEFT's pattern for this module alone, and not for others whose names end in the same way."""
    return "^" + name.replace(".", r"\.")
