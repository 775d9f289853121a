"""The parts of one module's change, as terms: one builder for each algebra (LoRA, LoHa, LoKr, full tensors)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..errors import AdapterError
from ..terms import Decomposed, Delta, Hadamard, Kronecker, LowRank, Replace, Term

Parts = Mapping[str, Tensor]


def kind_of(parts: Parts) -> str | None:
    """`lora`, `loha`, `lokr`; None where a module has full tensors only."""
    return next((kind for kind, marks in MARKS.items() if marks & parts.keys()), None)


def rank_of(parts: Parts) -> int | None:
    """The rank of a module's factors; None where nothing is factored."""
    factor = next((parts[name] for name in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b") if name in parts), None)
    return factor.shape[0] if factor is not None and factor.ndim else None


def _require(holds: bool, parts: Parts) -> None:
    if not holds:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in sorted(parts.items()))
        raise AdapterError(f"the shapes do not fit together: {shapes}")


def _factors(parts: Parts, up: str, down: str, mid: str, transposed: bool) -> LowRank:
    """`up @ down`, with LyCORIS' Tucker core between them where there is one (its LoHa and LoKr store `up` transposed)."""
    a, b, core = parts[up], parts[down], parts.get(mid)
    if core is not None and transposed and a.ndim == 2:
        a = a.T
    _require(a.ndim >= 2 and b.ndim >= 2 and a[0, 0].numel() == 1 and 0 < a.shape[1] == b.shape[0], parts)
    if core is not None:
        _require(core.ndim >= 2 and tuple(core.shape[:2]) == (b.shape[0],) * 2 and b[0, 0].numel() == 1, parts)
        b = b.flatten(1)
    return LowRank(a.flatten(1), b, mid=core)


def _lora(parts: Parts) -> LowRank:
    return _factors(parts, "up", "down", "mid", transposed=False)


def _loha(parts: Parts) -> Hadamard:
    left = _factors(parts, "hada_w1_a", "hada_w1_b", "hada_t1", transposed=True)
    right = _factors(parts, "hada_w2_a", "hada_w2_b", "hada_t2", transposed=True)
    _require(left.shape == right.shape, parts)
    return Hadamard(left, right)


def _lokr(parts: Parts) -> Kronecker:
    left, right = (
        parts[name]
        if name in parts
        else _factors(parts, f"{name}_a", f"{name}_b", core, transposed=True).delta_weight()
        for name, core in (("lokr_w1", ""), ("lokr_w2", "lokr_t2"))
    )
    _require(left.ndim == 2 and right.ndim >= 2 and left.numel() > 0 and right.numel() > 0, parts)
    return Kronecker(left, right)


MARKS = {
    "lora": frozenset({"down", "up", "mid"}),
    "loha": frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"}),
    "lokr": frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"}),
}
BUILDERS: dict[str, Callable[[Parts], LowRank | Hadamard | Kronecker]] = {"lora": _lora, "loha": _loha, "lokr": _lokr}


def _decomposed(term: LowRank | Hadamard | Kronecker, parts: Parts) -> Decomposed:
    """DoRA. PEFT keeps the magnitudes of the output axis; LyCORIS those of either, `[out, 1, ...]` or `[1, in, ...]`."""
    name = next(name for name in DORA if name in parts)
    magnitude = parts[name]
    axis = 1 if name == "dora_scale" and magnitude.ndim > 1 and magnitude.shape[0] == 1 != term.shape[0] else 0
    _require(magnitude.numel() == term.shape[axis], {name: magnitude, "weight": torch.empty(term.shape, device="meta")})
    return Decomposed(term, magnitude.flatten(), axis)


DORA = ("magnitude", "dora_scale")


def build(parts: Parts, scale: float) -> dict[str, Term]:
    """The terms of one module by parameter (`weight`, `bias`, or an empty name for a parameter of its own).

    `scale` multiplies what is factored. Raises `AdapterError` for parts that miss their counterpart or do not fit.
    """
    parts = dict(parts)
    terms: dict[str, Term] = {}
    kind = kind_of(parts)
    if kind is not None:
        parts.pop("alpha", None)
        own = MARKS[kind].union(DORA)
        try:
            term = BUILDERS[kind](parts).scaled(scale)
        except KeyError as missing:
            raise AdapterError(f"it has {', '.join(sorted(parts))}, but no {missing.args[0]}") from missing
        terms["weight"] = _decomposed(term, parts) if parts.keys() & set(DORA) else term
        parts = {name: tensor for name, tensor in parts.items() if name not in own}
        if "up_bias" in parts:
            terms["bias"] = Delta(parts.pop("up_bias"), scale)
    for name, (parameter, make) in FULL.items():
        if name in parts and parameter not in terms:
            terms[parameter] = make(parts.pop(name))
    if parts:
        raise AdapterError(f"it has {', '.join(sorted(parts))} without what belongs to it")
    return terms


FULL: dict[str, tuple[str, Callable[[Tensor], Term]]] = {
    "diff": ("weight", Delta),
    "diff_bias": ("bias", Delta),
    "weight": ("weight", Replace),
    "bias": ("bias", Replace),
    "parameter": ("", Replace),
}
