"""Terms as patches of the host, and the host's patches as terms.

Where both have the same arithmetic the host's own classes are used, so that stock nodes understand what this pack puts
on a model. Every other term is a `TermAdapter`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from comfy.weight_adapter import (
    BOFTAdapter,
    GLoRAAdapter,
    LoHaAdapter,
    LoKrAdapter,
    LoRAAdapter,
    OFTAdapter,
    WeightAdapterBase,
)
from torch import Tensor

from ....rlg_core.algebra import AdditiveTerm, Delta, Hadamard, Kronecker, LowRank, Term
from ....rlg_core.names import OTHERWISE


class TermAdapter(WeightAdapterBase):
    """A term as a patch of the host: `W + strength * delta(W)`.

    The host may rebuild it as `type(self)(loaded_keys, weights)`.
    """

    def __init__(self, loaded_keys: set[str], weights: tuple[Term]):
        self.loaded_keys, self.weights = loaded_keys, weights
        self.name = type(weights[0]).__name__

    @property
    def term(self) -> Term:
        return self.weights[0]

    def calculate_weight(
        self,
        weight,
        key,
        strength,
        strength_model,
        offset,
        function,
        intermediate_dtype=torch.float32,
        original_weight=None,
    ):
        # In place: where the patch has an offset, `weight` is a view of the rows it concerns.
        weight += function((strength * self.term.delta(weight)).to(weight))
        return weight


# Terms -> patches


def _from_low_rank(term: LowRank) -> Any:
    term = term.without_mid()
    return LoRAAdapter(set(), (term.up, term.down, term.scale * term.rank, None, None, None))


def _from_hadamard(term: Hadamard) -> Any:
    left, right = term.left.without_mid(), term.right.without_mid()
    alpha = term.scale * left.scale * right.scale * left.rank
    factors = (left.up, left.down.flatten(1), alpha, right.up, right.down.flatten(1), None, None, None)
    return LoHaAdapter(set(), factors)


def _from_kronecker(term: Kronecker) -> Any:
    if term.right.ndim not in (2, 4):  # the host knows linear layers and 2D convolutions
        return _from_delta(Delta(term.delta()))
    left = term.left if term.scale == 1.0 else term.left.float() * term.scale
    return LoKrAdapter(set(), (left, term.right, None, None, None, None, None, None, None))


def _from_delta(term: Delta) -> Any:
    return ("diff", (term.weight if term.scale == 1.0 else term.weight.float() * term.scale,))


STOCK: Mapping[type[Term], Callable[[Any], Any]] = {
    LowRank: _from_low_rank,
    Hadamard: _from_hadamard,
    Kronecker: _from_kronecker,
    Delta: _from_delta,
}
"""The terms for which the host has the same arithmetic."""


def as_patch(term: Term) -> Any:
    """`term` as the value of a host patch."""
    make = STOCK.get(type(term))
    return TermAdapter(set(), (term,)) if make is None else make(term)


# Patches -> terms


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
    left = left if left is not None else _product(left_up, left_down)
    right = right if right is not None else _product(right_up, right_down)
    return Kronecker(left, right, 1.0 if alpha is None or rank is None else alpha / rank)


ADAPTERS: Mapping[str, Callable[[Sequence[Any]], AdditiveTerm | None]] = {"lora": _lora, "loha": _loha, "lokr": _lokr}
"""How to read the host's adapter classes, by name, as additive terms; None if the change depends on the weight."""


def additive_value(value: Any) -> AdditiveTerm | None:
    """The value of a host patch as an additive term, or None if the change depends on the weight."""
    name = getattr(value, "name", None)
    if name is not None:
        return ADAPTERS[name](value.weights) if name in ADAPTERS else None
    if isinstance(value, tuple):
        kind, content = ("diff", value) if len(value) == 1 else value
        if kind == "diff" and len(content) == 1 and content[0] is not None:
            return Delta(content[0])
    return None


def is_idle(strength: float, value: Any, strength_model: float) -> bool:
    """Whether a patch changes nothing, as stock attention multipliers at 1 leave one on every weight.

    The host gives a weight that a file sets in place of the model's at any strength, 0 too.
    """
    sets_weight = isinstance(value, tuple) and value[0] == "set"
    return strength_model == 1.0 and (value == (None,) or strength == 0.0 and not sets_weight)


def tensors_in(value: Any) -> list[Any]:
    """Everything in the value of a patch, in order, to compare copies of one file that was loaded twice."""
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in tensors_in(item)]
    if isinstance(value, Term):
        return tensors_in(list(vars(value).values()))
    return tensors_in(value.weights) if hasattr(value, "weights") else [value]


def kind_of(value: Any) -> str:
    """The kind of a patch's value, for messages."""
    return getattr(value, "name", type(value).__name__)


def stock_scale(value: Any, strength: float) -> float | str | None:
    """The scale at which the stock LoRA loader applies a patch that it read from a file, or None if it has no scale.

    `OTHERWISE` if it does not compute what the trainer does at this strength.
    """
    if isinstance(value, (OFTAdapter, BOFTAdapter)):
        # It takes alpha for the limit of the norm, which is alpha times the rows, forgets the rescaling of OFT, and
        # applies the strength twice.
        _, rescale, alpha, *_ = value.weights
        forgotten = rescale is not None and isinstance(value, OFTAdapter)
        return OTHERWISE if alpha or forgotten or strength != 1.0 else None
    if isinstance(value, GLoRAAdapter):
        return 1.0 if value.weights[4] is None else value.weights[4] / value.weights[1].shape[0]
    if not isinstance(value, (LoRAAdapter, LoHaAdapter, LoKrAdapter)):
        return None
    alpha, factors = value.weights[2], value.weights[1:2]
    if isinstance(value, LoKrAdapter):
        factors = [factor for factor in (value.weights[6], value.weights[4]) if factor is not None]
    return alpha / factors[0].shape[0] if alpha is not None and len(factors) > 0 else 1.0
