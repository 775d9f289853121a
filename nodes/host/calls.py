"""One call of the model as `WrappersMP.APPLY_MODEL` sees it, and how it is repeated for base and experts."""
from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy.model_base import BaseModel
from comfy.patcher_extension import WrapperExecutor
from torch import Tensor

BASE = 0


@dataclass(frozen=True)
class ModelCall:
    """`executor(x, t, ...)` returns the denoised prediction [rows, ...] in float32 for latents `x` [rows, ...] at sigmas
    `t` [rows]."""

    executor: WrapperExecutor
    x: Tensor
    t: Tensor
    c_concat: Tensor | None
    c_crossattn: Tensor | None
    control: dict[str, list[Tensor | None]] | None
    transformer_options: dict[str, Any]
    conds: dict[str, Any]

    @property
    def rows(self) -> int:
        return self.x.shape[0]

    @property
    def sigma(self) -> float:
        return float(self.t.flatten()[0])

    def run(self) -> Tensor:
        # UNets pop from the control lists: every run gets lists of its own.
        control = None if self.control is None else {name: list(outputs) for name, outputs in self.control.items()}
        return self.executor(
            self.x, self.t, self.c_concat, self.c_crossattn, control, self.transformer_options, **self.conds
        )

    def for_part(self, part: int, purpose: str = "") -> ModelCall:
        """This call under uuids of its own: caches of other nodes must not take one part's features for another's."""
        if part == BASE and not purpose:
            return self
        return replace(self, transformer_options=self._options([part], purpose))

    def for_parts(self, parts: Sequence[int]) -> ModelCall:
        """One call over `[part rows | part rows | ...]`."""
        times = len(parts)
        return replace(
            self,
            x=self._repeat(self.x, times),
            t=self._repeat(self.t, times),
            c_concat=self._repeat(self.c_concat, times),
            c_crossattn=self._repeat(self.c_crossattn, times),
            control=self._repeat(self.control, times),
            transformer_options=self._options(parts),
            conds=self._repeat(self.conds, times),
        )

    def on(self, model: BaseModel) -> ModelCall:
        """This call on another model, through the same wrappers of other nodes."""
        executor = WrapperExecutor.new_class_executor(model._apply_model, model, self.executor.wrappers, self.executor.idx)
        return replace(self, executor=executor)

    def signature(self) -> tuple:
        """What decides whether rows stay apart inside the model: shape, kinds of conditioning and patches at work."""
        options = self.transformer_options
        patches = sorted(_names(options.get("patches")) + _names(options.get("patches_replace")) + _names(options.get("wrappers")))
        return (tuple(self.x.shape), tuple(sorted(self.conds)), self.control is not None, tuple(patches))

    def _repeat(self, value: Any, times: int) -> Any:
        if isinstance(value, Tensor):
            return torch.cat([value] * times) if value.ndim and value.shape[0] == self.rows else value
        if isinstance(value, dict):
            return {name: self._repeat(item, times) for name, item in value.items()}
        if isinstance(value, list):
            return [self._repeat(item, times) for item in value]
        return value

    def _options(self, parts: Sequence[int], purpose: str = "") -> dict[str, Any]:
        options = self.transformer_options.copy()
        options["cond_or_uncond"] = list(options.get("cond_or_uncond", ())) * len(parts)
        options["uuids"] = [_part_uuid(u, part, purpose) for part in parts for u in options.get("uuids", ())]
        return options


def _part_uuid(conditioning: uuid.UUID, part: int, purpose: str) -> uuid.UUID:
    return conditioning if part == BASE and not purpose else uuid.uuid5(conditioning, f"rlg {part} {purpose}")


def _names(patches: dict | None) -> list[str]:
    """The kinds of patches and the functions at work, by name, so that a re-run of the same graph is the same."""
    if isinstance(patches, dict):
        return [f"{kind}:{name}" for kind, inner in patches.items() for name in _names(inner)]
    if isinstance(patches, (list, tuple)):
        return [name for item in patches for name in _names(item)]
    return [] if patches is None else [getattr(patches, "__qualname__", type(patches).__qualname__)]
