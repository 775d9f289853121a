"""Whether a batched pass may be trusted: it must have agreed with separate passes once, for its kind of call."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from comfy.model_base import BaseModel
from torch import Tensor

from .calls import ModelCall, is_gone, mark

KEPT = 64
"""Verdicts kept per model, the most recently used last."""

ROUNDINGS = 4
"""How many times the rounding of one pass two passes may be apart."""

FLOAT32, TF32 = 1e-6, 1e-3
"""Dtypes with a smaller epsilon are float32 or better; their convolutions may be computed in TF32 on a GPU."""

AGREES, UNKNOWN, NO_ROOM = "agrees", "unknown", "no room"
Verdict = str
"""`AGREES`, `UNKNOWN`, or else why separate passes are needed; `NO_ROOM` only for now."""


class Verdicts:
    """What is known about one model with terms on one set of modules, and `around` it what other nodes put there.

    Whether rows stay apart does not depend on the values of the terms, so another strength or a reloaded adapter is not
    checked again.
    """

    def __init__(self, model: BaseModel, modules: Hashable, around: Mapping[str, Any]):
        self.kept = _kept.setdefault(model, OrderedDict())
        self.setting = (modules, tuple((name, mark(patch)) for name, patch in around.items()))

    def recall(self, call: ModelCall, kind: Hashable) -> Verdict:
        """The verdict on this kind of call with the very patches that are at work."""
        return self.kept.get(self._key(call, kind), UNKNOWN)

    def keep(self, call: ModelCall, kind: Hashable, verdict: Verdict) -> None:
        for key in [key for key in self.kept if _is_stale(key)]:
            del self.kept[key]
        key = self._key(call, kind)
        self.kept[key] = verdict
        self.kept.move_to_end(key)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)

    def _key(self, call: ModelCall, kind: Hashable) -> tuple:
        return (*self.setting, kind, call.patches())


_kept: WeakKeyDictionary[BaseModel, OrderedDict[tuple, Verdict]] = WeakKeyDictionary()


def _is_stale(key: tuple) -> bool:
    """Whether a verdict is about patches that are gone."""
    _, around, _, patches = key
    return any(is_gone(marked) for _, marked in (*around, *patches))


def error_of(found: Mapping[int, Tensor], expected: Mapping[int, Tensor]) -> float:
    """The largest root mean square difference of any two predictions of the same role; NaN if any of them is NaN."""
    errors = [_rms(found[role] - expected[role]) for role in expected]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def negligible(predictions: Mapping[int, Tensor], dtype: torch.dtype) -> float:
    """An error that needs no explanation in predictions computed in `dtype`."""
    eps = torch.finfo(dtype).eps
    return _size(predictions) * (64 * eps if eps < FLOAT32 else eps / 8)


def explained(error: float, rounding: float, separate: Mapping[int, Tensor], dtype: torch.dtype) -> Verdict:
    """Whether the measured `rounding` of this model and batch accounts for `error`, within what `dtype` can make."""
    eps = torch.finfo(dtype).eps
    largest = _size(separate) * (TF32 if eps < FLOAT32 else 4 * eps)
    if error <= min(ROUNDINGS * rounding, largest):
        return AGREES
    reference = next(iter(separate.values()))
    effect = max(_rms(prediction - reference) for prediction in separate.values())
    return (
        f"batched rows differ from separate passes by {error:.2e}, where rounding makes {rounding:.2e} and the RL "
        f"model changes {effect:.2e}"
    )


def _size(predictions: Mapping[int, Tensor]) -> float:
    return _rms(next(iter(predictions.values())))


def _rms(difference: Tensor) -> float:
    return float(difference.float().square().mean().sqrt())
