"""The host's weight patches read as terms: `rl.patches - base.patches`, without merging either into the weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import comfy.lora
import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher, get_key_weight
from torch import Tensor

from ...rlg_core.errors import PairError
from ...rlg_core.rows import Placed
from ...rlg_core.terms import AdditiveTerm, Delta, Hadamard, Kronecker, LowRank

Patch = tuple[float, Any, float, Any, Any]
"""The host's `(strength, value, strength_model, offset, function)`."""

ROUNDING = 4 * torch.finfo(torch.float32).eps
"""What the host's merging in float32 may change of a weight, relative to it."""


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a.float() @ b.float()


def _lora(weights: Sequence[Any]) -> AdditiveTerm | None:
    up, down, alpha, mid, dora, reshape = weights
    if dora is not None or reshape is not None:
        return None
    return LowRank(up, down, 1.0 if alpha is None else alpha / down.shape[0], mid)


def _loha(weights: Sequence[Any]) -> AdditiveTerm | None:
    up1, down1, alpha, up2, down2, mid1, mid2, dora = weights
    if dora is not None:
        return None
    tucker = mid1 is not None
    left = LowRank(up1.T if tucker else up1, down1, mid=mid1)
    right = LowRank(up2.T if tucker else up2, down2, mid=mid2)
    return Hadamard(left, right, 1.0 if alpha is None else alpha / down1.shape[0])


def _lokr(weights: Sequence[Any]) -> AdditiveTerm | None:
    left, right, alpha, left_up, left_down, right_up, right_down, mid, dora = weights
    if dora is not None:
        return None
    rank = next((factor.shape[0] for factor in (right_down, left_down) if factor is not None), None)
    if right is None and mid is not None:
        right = torch.einsum("ijkl,jr,ip->prkl", mid.float(), right_down.float(), right_up.float())
    scale = 1.0 if alpha is None or rank is None else alpha / rank
    return Kronecker(
        left if left is not None else _product(left_up, left_down),
        right if right is not None else _product(right_up, right_down),
        scale,
    )


ADAPTERS = {"lora": _lora, "loha": _loha, "lokr": _lokr}
"""How the host's adapter classes, by name, read as additive terms; None where theirs depends on the weight."""


def _with_kernel(factor: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """The right Kronecker factor of a convolution, stored flat as [c, d * kernel], as [c, d, *kernel]."""
    fits = factor.shape[1] % torch.Size(kernel).numel() == 0
    return factor.reshape(factor.shape[0], -1, *(kernel if fits else [1] * len(kernel)))


def _shaped(term: AdditiveTerm, key: str, shape: tuple[int, ...]) -> AdditiveTerm:
    """`term` in the layout of a weight of `shape`. Raises `PairError` where it does not fit: the host would drop it."""
    if isinstance(term, LowRank):
        term = term.without_mid()
        if term.up.shape[0] == shape[0] and term.down[0].numel() == torch.Size(shape[1:]).numel():
            return LowRank(term.up.flatten(1), term.down.reshape(-1, *shape[1:]), term.scale)
    if isinstance(term, Kronecker) and term.right.ndim == 2 and len(shape) > 2:
        term = Kronecker(term.left, _with_kernel(term.right, shape[2:]), term.scale)
    if isinstance(term, Hadamard):
        term = Hadamard(_shaped(term.left, key, shape), _shaped(term.right, key, shape), term.scale)
    if tuple(term.shape) != shape:
        raise PairError(
            f"{key}: a patch of shape {tuple(term.shape)} on a weight of shape {shape}. It is for another model."
        )
    return term


def _value_term(value: Any) -> AdditiveTerm | None:
    """The additive term a patch's value is, or None where it depends on the weight."""
    name = getattr(value, "name", None)
    if name is not None:
        return ADAPTERS[name](value.weights) if name in ADAPTERS else None
    if isinstance(value, tuple):
        kind, content = ("diff", value) if len(value) == 1 else value
        if kind == "diff" and len(content) == 1:
            return Delta(content[0])
    return None


def depends_on_weight(patch: Patch) -> bool:
    """Whether `patch` does anything but add one fixed term to the weight."""
    _, value, strength_model, _, function = patch
    return strength_model != 1.0 or function is not None or _value_term(value) is None


def additive_term(patch: Patch, key: str, shape: tuple[int, ...]) -> Placed | None:
    """`patch` on the weight `key` of `shape` as an additive term; None where it depends on the weight.

    Raises `PairError` where shapes do not fit.
    """
    strength, value, _, offset, _ = patch
    if depends_on_weight(patch):
        return None
    if offset is not None:
        shape = tuple(offset[2] if dim == offset[0] else size for dim, size in enumerate(shape))
    term = _value_term(value)
    return Placed(key.rsplit(".", 1)[1], _shaped(term, key, shape).scaled(strength), offset)


def _tensors(value: Any) -> list[Any]:
    """Everything in a patch's value, in order, for comparing copies of one file that were loaded twice."""
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _tensors(item)]
    return _tensors(value.weights) if hasattr(value, "weights") else [value]


def _same(a: Patch, b: Patch) -> bool:
    if a[1] is not b[1]:
        if type(a[1]) is not type(b[1]):
            return False
        left, right = _tensors(a[1]), _tensors(b[1])
        if len(left) != len(right) or not all(_same_leaf(x, y) for x, y in zip(left, right)):
            return False
    return a[0] == b[0] and a[2:] == b[2:]


def _same_leaf(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b


def difference(base: Sequence[Patch], rl: Sequence[Patch]) -> tuple[list[Patch], list[Patch]]:
    """The patches of one weight that only the base has, and those only the RL model has, each as often as it occurs."""
    added, removed = list(rl), []
    for patch in base:
        match = next((k for k, other in enumerate(added) if _same(patch, other)), None)
        if match is None:
            removed.append(patch)
        else:
            del added[match]
    return removed, added


def original_weight(model: ModelPatcher, key: str) -> Tensor:
    """The weight under `key` before any patch, in float32 on the device the model computes on."""
    weight, _, convert = get_key_weight(model.model, key)
    if key in model.backup:
        weight = model.backup[key].weight
    weight = comfy.model_management.cast_to_device(weight, model.load_device, torch.float32, copy=True)
    return convert(weight, inplace=True) if convert is not None else weight


def dense_difference(model: ModelPatcher, key: str, base: Sequence[Patch], rl: Sequence[Patch]) -> Tensor:
    """`W_rl - W_base` by the host's own arithmetic, for patches that depend on the weight (DoRA, OFT, set, merges).

    Zero where it is no more than rounding, as a merge leaves it on what two checkpoints share. Raises `PairError` where
    the host could not apply the patches.
    """
    weight = original_weight(model, key)
    before, after = (_applied(weight.clone(), patches, key) for patches in (base, rl))
    delta = after - before
    if not bool(torch.isfinite(delta).all()):
        raise PairError(f"{key}: the RL model's weight has NaN or infinite values.")
    rounding = ROUNDING * torch.maximum(weight.abs(), after.abs())
    return (delta if bool((delta.abs() > rounding).any()) else torch.zeros_like(delta)).to(model.offload_device)


def _applied(weight: Tensor, patches: Sequence[Patch], key: str) -> Tensor:
    """`weight` under `patches`, one by one, as the host applies them; it only logs those that it leaves out."""
    for patch in patches:
        before = weight.clone()
        weight = comfy.lora.calculate_weight([patch], weight, key)
        kind = getattr(patch[1], "name", type(patch[1]).__name__)
        if weight.shape != before.shape:
            raise PairError(
                f"{key}: a patch ({kind}) makes it {tuple(weight.shape)}, expected {tuple(before.shape)} as the base."
            )
        if torch.equal(weight, before) and not _may_change_nothing(patch):
            raise PairError(
                f"{key}: the host applied no change for a patch ({kind}). The adapter does not fit this model."
            )
    return weight


def _may_change_nothing(patch: Patch) -> bool:
    """Merges and full tensors may equal the weight, and an adapter with a factor of zeros adds nothing."""
    strength, value = patch[:2]
    tensors = [leaf for leaf in _tensors(value) if isinstance(leaf, Tensor)]
    return strength == 0 or not hasattr(value, "weights") or any(not bool(tensor.any()) for tensor in tensors)


def changed_parameters(model: ModelPatcher, rl: ModelPatcher) -> dict[str, list[Placed]]:
    """What turns `model`'s weights into `rl`'s, by module name: additive terms where patches are additive, dense
    differences elsewhere. Both are clones of one model. Empty where they are identical."""
    changes: dict[str, list[Placed]] = {}
    for key in dict.fromkeys([*model.patches, *rl.patches]):
        removed, added = difference(model.patches.get(key, []), rl.patches.get(key, []))
        if removed or added:
            changes.setdefault(key.rsplit(".", 1)[0], []).extend(_key_terms(model, rl, key, removed, added))
    return {name: placed for name, placed in changes.items() if placed}


def _key_terms(
    model: ModelPatcher, rl: ModelPatcher, key: str, removed: list[Patch], added: list[Patch]
) -> list[Placed]:
    base_patches, rl_patches = model.patches.get(key, []), rl.patches.get(key, [])
    shape = tuple(get_key_weight(model.model, key)[0].shape)
    placed = {id(patch): additive_term(patch, key, shape) for patch in (*base_patches, *rl_patches)}
    if any(term is None for term in placed.values()):
        # One patch that depends on the weight makes the order of all of them matter.
        delta = dense_difference(model, key, base_patches, rl_patches)
        return [Placed(key.rsplit(".", 1)[1], Delta(delta))] if bool(delta.any()) else []
    signed = [(-1.0, placed[id(patch)]) for patch in removed] + [(1.0, placed[id(patch)]) for patch in added]
    return [replace(term, term=term.term.scaled(sign)) for sign, term in signed]
