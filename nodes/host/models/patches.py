"""Reads the host's weight patches as terms: `rl.patches - base.patches`, without merging either into the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import isfunction
from typing import Any

import comfy.lora
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....rlg_core.algebra import Delta, Placed, Slice
from ....rlg_core.errors import PairError
from ..compat import unpatched_weight, weight_shape
from .stock import TermAdapter, additive_value, is_idle, kind_of, tensors_in

Patch = tuple[float, Any, float, Any, Any]
"""The host's `(strength, value, strength_model, offset, function)`."""

Patches = Mapping[str, Sequence[Patch]]
"""All patches of a model, by the key of the weight."""

ROUNDING = 4 * torch.finfo(torch.float32).eps
"""Relative error that the host's merging in float32 may leave on a weight."""


def at_work(patches: Sequence[Patch]) -> list[Patch]:
    """Those of `patches` that change anything."""
    return [patch for patch in patches if not is_idle(*patch[:3])]


def copied(patches: Patches) -> dict[str, list[Patch]]:
    return {key: list(own) for key, own in patches.items()}


# Comparing


def difference(base: Sequence[Patch], rl: Sequence[Patch]) -> tuple[list[Patch], list[Patch]]:
    """The patches of one weight that only the base has, and those that only the RL model has, repeats included."""
    added, removed = list(rl), []
    for patch in base:
        match = next((k for k, other in enumerate(added) if _same(patch, other)), None)
        if match is None:
            removed.append(patch)
        else:
            del added[match]
    return removed, added


def _same(a: Patch, b: Patch) -> bool:
    if a[1] is not b[1]:
        if type(a[1]) is not type(b[1]):
            return False
        left, right = tensors_in(a[1]), tensors_in(b[1])
        if len(left) != len(right) or not all(_same_leaf(x, y) for x, y in zip(left, right)):
            return False
    return a[0] == b[0] and a[2:] == b[2:]


def _same_leaf(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    if isfunction(a) and isfunction(b):  # the host makes one anew for each weight that it merges
        return a.__code__ is b.__code__ and a.__closure__ is b.__closure__ is None
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b


# As terms


def depends_on_weight(patch: Patch) -> bool:
    """Whether `patch` does anything other than add one fixed term to the weight."""
    _, value, strength_model, _, function = patch
    return strength_model != 1.0 or function is not None or additive_value(value) is None


def additive_term(patch: Patch, key: str, shape: tuple[int, ...]) -> Placed | None:
    """`patch` on the weight `key` of `shape` as an additive term, or None if it depends on the weight.

    Raises `PairError` if the shapes do not fit: the host would drop such a patch.
    """
    strength, value, _, offset, _ = patch
    if depends_on_weight(patch):
        return None
    if offset is not None:
        shape = tuple(offset[2] if dim == offset[0] else size for dim, size in enumerate(shape))
    term = additive_value(value)
    fitted = term.fitted(shape)
    if fitted is None:
        raise PairError(
            f"{key}: a patch of shape {tuple(term.shape)} on a weight of shape {shape}. It is for another model."
        )
    return Placed(key.rsplit(".", 1)[1], fitted.scaled(strength), offset)


def changed_parameters(model: ModelPatcher, rl: ModelPatcher) -> dict[str, list[Placed]]:
    """What turns `model`'s weights into `rl`'s, by module name; empty if they are identical.

    Both are clones of one model. Additive patches give additive terms, all others dense differences.
    """
    changes: dict[str, list[Placed]] = {}
    for key in dict.fromkeys([*model.patches, *rl.patches]):
        base_patches, rl_patches = (at_work(patcher.patches.get(key, [])) for patcher in (model, rl))
        removed, added = difference(base_patches, rl_patches)
        if removed or added:
            placed = _additive_change(model, key, base_patches, removed, added)
            if placed is None and not base_patches:
                placed = _change_of_this_weight(model, key, added)
            if placed is None:
                placed = _dense_change(model, key, base_patches, rl_patches)
            changes.setdefault(key.rsplit(".", 1)[0], []).extend(placed)
    return {name: placed for name, placed in changes.items() if placed}


def _additive_change(
    model: ModelPatcher, key: str, base: Sequence[Patch], removed: Sequence[Patch], added: Sequence[Patch]
) -> list[Placed] | None:
    """`added - removed`; None where a patch on this weight depends on it, so that the order of all of them matters."""
    if any(depends_on_weight(patch) for patch in [*base, *added]):
        return None
    shape = weight_shape(model, key)
    signed = [(-1.0, patch) for patch in removed] + [(1.0, patch) for patch in added]
    placed = [(sign, additive_term(patch, key, shape)) for sign, patch in signed]
    return [replace(change, term=change.term.scaled(sign)) for sign, change in placed]


def _change_of_this_weight(model: ModelPatcher, key: str, added: Sequence[Patch]) -> list[Placed] | None:
    """Terms that depend on the weight as additive ones for this weight (GLoRA); None where one has no such form.

    Each must have the unpatched weight before it: a single patch, or several on rows of their own.
    """
    if not all(isinstance(value, TermAdapter) and whole == 1.0 and not f for _, value, whole, _, f in added):
        return None
    if len(added) > 1 and not _are_apart([offset for _, _, _, offset, _ in added]):
        return None
    weight, placed = unpatched_weight(model, key), []
    for strength, value, _, offset, _ in added:
        term = value.term.additive(weight if offset is None else weight.narrow(*offset))
        if term is None:
            return None
        placed.append(Placed(key.rsplit(".", 1)[1], term.scaled(strength), offset))
    return placed


def _are_apart(offsets: Sequence[Slice | None]) -> bool:
    """Whether these are slices of the rows of a weight without overlap."""
    if any(offset is None or offset[0] != 0 for offset in offsets):
        return False
    spans = sorted((start, start + length) for _, start, length in offsets)
    return all(end <= start for (_, end), (start, _) in zip(spans, spans[1:]))


def _dense_change(model: ModelPatcher, key: str, base: Sequence[Patch], rl: Sequence[Patch]) -> list[Placed]:
    delta = dense_difference(model, key, base, rl)
    return [Placed(key.rsplit(".", 1)[1], Delta(delta))] if bool(delta.any()) else []


# Merging as the host does


def dense_difference(model: ModelPatcher, key: str, base: Sequence[Patch], rl: Sequence[Patch]) -> Tensor:
    """`W_rl - W_base` by the host's own arithmetic, for patches that depend on the weight (DoRA, OFT, set, merges).

    Zero if it is no more than rounding, which a merge leaves on weights that two checkpoints share. Raises `PairError`
    if the host could not apply the patches.
    """
    weight = unpatched_weight(model, key)
    before, after = (_applied(weight.clone(), patches, key) for patches in (base, rl))
    delta = after - before
    if not bool(torch.isfinite(delta).all()):
        raise PairError(f"{key}: the RL model's weight has NaN or infinite values.")
    rounding = ROUNDING * torch.maximum(weight.abs(), after.abs())
    return (delta if bool((delta.abs() > rounding).any()) else torch.zeros_like(delta)).to(model.offload_device)


def _applied(weight: Tensor, patches: Sequence[Patch], key: str) -> Tensor:
    """`weight` with `patches` applied one by one, as the host does, which only logs those that it leaves out."""
    for patch in patches:
        before, kind = weight.clone(), kind_of(patch[1])
        weight = comfy.lora.calculate_weight([patch], weight, key)
        if weight.shape != before.shape:
            came, expected = tuple(weight.shape), tuple(before.shape)
            raise PairError(f"{key}: a patch ({kind}) changes its shape to {came}, expected {expected} as in the base.")
        if torch.equal(weight, before) and not _may_change_nothing(patch):
            raise PairError(
                f"{key}: ComfyUI applied no change for a patch ({kind}). The adapter does not fit this model."
            )
    return weight


def _may_change_nothing(patch: Patch) -> bool:
    """Merges and full tensors may equal the weight, and an adapter with an all-zero factor adds nothing."""
    strength, value = patch[:2]
    if strength == 0 or isinstance(value, TermAdapter) or not hasattr(value, "weights"):
        return True
    return any(isinstance(leaf, Tensor) and not bool(leaf.any()) for leaf in tensors_in(value))
