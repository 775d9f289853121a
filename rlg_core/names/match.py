"""An adapter's changes brought to the host's weights: every one of them, in the host's layout, or an error."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import AdapterError
from ..formats import Adapter, Change
from ..terms import Decomposed, Delta, Hadamard, Kronecker, LowRank, Replace, Term
from .resolve import NameMap, Target


@dataclass(frozen=True)
class Match:
    """One change of an adapter on the host's parameter, `term` in the host's layout."""

    change: Change
    target: Target
    term: Term


def match(adapter: Adapter, names: NameMap) -> list[Match]:
    """Every change of `adapter` on its parameter.

    Raises `AdapterError` unless every change finds its parameter and fits it: an adapter is never loaded partly.
    """
    found = [(change, names.find(change.module, change.parameter)) for change in adapter.changes]
    missing = [change for change, target in found if target is None]
    if missing:
        raise AdapterError(_unmatched(adapter, missing, names))
    return [Match(change, target, _fitted(adapter, change, target)) for change, target in found if target is not None]


def _unmatched(adapter: Adapter, missing: list[Change], names: NameMap) -> str:
    first = ", ".join(".".join(filter(None, (change.module, change.parameter))) for change in missing[:3])
    architecture = names.architecture.name if names.architecture else "this architecture"
    if len(missing) == len(adapter.changes):
        return (
            f"{adapter.file.path}: none of its {len(missing)} changes is for this model ({architecture}); the first are {first}. "
            "It was made for another architecture: load the base model it was trained on."
        )
    return (
        f"{adapter.file.path}: {len(missing)} of {len(adapter.changes)} changes have no weight in this model ({architecture}), "
        f"the first are {first}. It is not loaded partly; load the base model it was trained on."
    )


def _fitted(adapter: Adapter, change: Change, target: Target) -> Term:
    shape = (target.rows[1], *target.shape[1:]) if target.rows is not None else target.shape
    term = _shaped(change.term, shape)
    if term is None:
        raise AdapterError(
            f"{adapter.file.path}: {change.module}: its change has shape {list(change.term.shape)}, but "
            f"{target.key} has {list(shape)} in this model. The base model is of another size or kind."
        )
    return _swapped(term) if target.swapped else term


def _shaped(term: Term, shape: tuple[int, ...]) -> Term | None:
    """`term` where it is for a weight of `shape`, up to how a kernel's dimensions are written; None otherwise."""
    own = term.shape
    if own == shape:
        return term
    same = len(own) > 0 and own[0] == shape[0] and math.prod(own) == math.prod(shape)
    if not same or min(len(own), len(shape)) > 2 and own[2:] != (1,) * (len(own) - 2):
        return None
    reshape = {
        Delta: lambda: replace(term, weight=term.weight.reshape(shape)),
        Replace: lambda: replace(term, value=term.value.reshape(shape)),
    }
    return reshape.get(type(term), lambda: term)()


def _roll(tensor: Tensor) -> Tensor:
    return torch.roll(tensor, tensor.shape[0] // 2, 0)


def _swapped(term: Term) -> Term:
    """`term` with the two halves of its rows in the other order."""
    if isinstance(term, LowRank):
        return replace(term, up=_roll(term.up))
    if isinstance(term, Hadamard):
        return replace(term, left=_swapped(term.left), right=_swapped(term.right))
    if isinstance(term, Kronecker):
        return Delta(_roll(term.delta_weight()))
    if isinstance(term, Decomposed):
        return replace(
            term, inner=_swapped(term.inner), magnitude=term.magnitude if term.axis else _roll(term.magnitude)
        )
    return (
        replace(term, value=_roll(term.value))
        if isinstance(term, Replace)
        else replace(term, weight=_roll(term.weight))
    )
