"""Whether a batched pass may be trusted: it must have agreed with separate passes once, for its kind of call."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from weakref import WeakKeyDictionary

import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from .calls import ModelCall, is_gone, mark

KEPT = 64
"""Verdicts kept per model, the most recently used last."""

UNKNOWN = "not verified yet"

Verdict = str | None
"""None if rows stay apart, else why separate passes are needed."""


class Verdicts:
    """What is known about one model under one set of object patches, with terms on one set of modules.

    Whether rows stay apart does not depend on the values of the terms, so another strength or a reloaded adapter is not
    checked again.
    """

    def __init__(self, patcher: ModelPatcher, modules: Hashable):
        self.kept = _kept.setdefault(patcher.model, OrderedDict())
        objects = tuple((name, mark(patch)) for name, patch in patcher.object_patches.items())
        self.setting = (modules, objects)

    def recall(self, call: ModelCall, kind: tuple) -> Verdict:
        """The verdict on this kind of call with the same patches at work, or `UNKNOWN`."""
        return self.kept.get(self._key(call, kind), UNKNOWN)

    def keep(self, call: ModelCall, kind: tuple, verdict: Verdict) -> None:
        for key in [key for key in self.kept if _is_stale(key)]:
            del self.kept[key]
        key = self._key(call, kind)
        self.kept[key] = verdict
        self.kept.move_to_end(key)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)

    def _key(self, call: ModelCall, kind: tuple) -> tuple:
        return (*self.setting, kind, call.patches())


_kept: WeakKeyDictionary[BaseModel, OrderedDict[tuple, Verdict]] = WeakKeyDictionary()


def _is_stale(key: tuple) -> bool:
    """Whether a verdict is about patches that are gone."""
    _, objects, _, patches = key
    return any(is_gone(marked) for _, marked in (*objects, *patches))


def disagreement(batched: dict[int, Tensor], separate: dict[int, Tensor], dtype: torch.dtype) -> Verdict:
    """Why `batched` is not `separate` up to rounding in `dtype`, or None if it is.

    Rounding is judged against what the terms do: an error near |rl - base| means rows that were mixed up.
    """
    reference = next(iter(separate.values()))
    effect = max(_rms(prediction - reference) for prediction in separate.values())
    error = max(_rms(batched[role] - separate[role]) for role in separate)
    exact = torch.finfo(dtype).eps < 1e-6
    rounding = _rms(reference) * torch.finfo(dtype).eps * (64 if exact else 4)
    if error <= max(rounding, effect * (0.01 if exact else 0.25)):
        return None
    return f"batched rows differ from separate passes by {error:.2e} where the RL model changes {effect:.2e}"


def _rms(difference: Tensor) -> float:
    return float(difference.float().square().mean().sqrt())
