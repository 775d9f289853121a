"""Evaluates base and experts that share one copy of the weights: one batched pass, or one pass each.

Batched is trusted only after it agreed with separate passes once, for the same shape, conditioning and patches.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import comfy.model_management
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...rlg_core.combine import Weight
from ...rlg_core.errors import RowsNotSeparable, RunError
from ...rlg_core.rows import Assignment, RowTerms
from .calls import BASE, ModelCall, mark
from .pair import SharedWeights, compute_dtype

log = logging.getLogger(__name__)

VERIFICATION = "verification"

_verdicts: WeakKeyDictionary[BaseModel, dict[tuple, str | None]] = WeakKeyDictionary()
"""By model, kind of call and the very patches at work: None where the batched pass was verified, else why separate passes
are needed. A run looks here once for each kind of call, as some patches are made anew for every call (GLIGEN's)."""


class SharedPasses:
    """One run's evaluations of `model` with and without the terms of its experts. Part 0 is the base, part k expert k."""

    def __init__(self, patcher: ModelPatcher, sources: Mapping[int, SharedWeights], batching: str = "auto"):
        model = patcher.model
        self.model, self.batching = model, batching
        self.object_patches = tuple((name, mark(patch)) for name, patch in patcher.object_patches.items())
        self.verdicts: dict[tuple, str | None] = {}
        self.banks = tuple(source.bank.uid for source in sources.values())
        self.terms = RowTerms(
            model, {part: source.bank.by_name() for part, source in sources.items()}, patcher.load_device
        )
        self.applications: dict[tuple, int] = {}
        self.told = False

    def evaluate(self, call: ModelCall, parts: Sequence[int]) -> dict[int, Tensor]:
        """The denoised prediction of each of `parts`, [rows, ...]."""
        if len(parts) < 2 or self.batching == "sequential" or not self._fits(call, parts):
            return self._separate(call, parts)
        kind = (tuple(parts), call.signature())
        try:
            return self._together(call, parts, kind)
        except (RowsNotSeparable, torch.cuda.OutOfMemoryError) as error:
            self.verdicts[kind] = str(error)  # for this run: memory may be back in the next one
            log.warning("RLG: base and RL model run in separate passes from here on (%s).", error)
        comfy.model_management.soft_empty_cache()
        return self._separate(call, parts)

    def _together(self, call: ModelCall, parts: Sequence[int], kind: tuple) -> dict[int, Tensor]:
        """The batched result, unless this kind of call was found to need separate passes; the first one is checked."""
        if kind not in self.verdicts:
            known = _verdicts.setdefault(self.model, {})
            exact = (self.banks, kind, self.object_patches, call.patches())
            if exact not in known:
                reason, predictions = self._verified(call, parts)
                if reason is not None or self.terms.applied:
                    known[exact] = self.verdicts[kind] = reason
                return predictions
            self.verdicts[kind] = known[exact]
        return self._separate(call, parts) if self.verdicts[kind] else self._batched(call, parts)

    def _verified(self, call: ModelCall, parts: Sequence[int]) -> tuple[str | None, dict[int, Tensor]]:
        """The batched result if separate passes confirm it, else why not, and theirs."""
        try:
            batched = self._batched(call, parts)
        except torch.cuda.OutOfMemoryError:
            raise
        except RowsNotSeparable as error:
            reason = str(error)
        except RuntimeError as error:
            # A model that refuses a repeated batch may still take the rows as they came; if not, that pass raises.
            reason = f"the batch of all parts failed: {error}"
        else:
            if not self.terms.applied:
                return None, batched  # a cache of another node answered: there is nothing to verify yet
            separate = self._separate(call, parts, VERIFICATION)
            reason = disagreement(batched, separate, compute_dtype(self.model))
            if reason is None:
                return None, batched
        log.warning("RLG: base and RL model run in separate passes, at twice the weight traffic (%s).", reason)
        return reason, self._separate(call, parts)

    def linearised(self, call: ModelCall, weights: Mapping[int, Weight]) -> Tensor:
        """One evaluation of the base with every expert's terms at its weight: the mean to first order in the terms."""
        factors = {part: self._factor(weight) for part, weight in weights.items()}
        assignments = [Assignment(part, 0, call.rows, factor) for part, factor in factors.items()]
        part = min(weights)
        return self._whole(call.for_part(part, "linearised"), assignments, ("linearised", *weights))

    @staticmethod
    def _factor(weight: Weight) -> Weight:
        if isinstance(weight, Tensor) and weight.numel() != weight.shape[0]:
            raise RunError(
                "RLG Budget `linearised` takes one scale for the whole picture: remove the mask, or evaluate exactly."
            )
        return weight.flatten() if isinstance(weight, Tensor) else weight

    def _batched(self, call: ModelCall, parts: Sequence[int]) -> dict[int, Tensor]:
        rows = call.rows
        assignments = [Assignment(part, k * rows, (k + 1) * rows) for k, part in enumerate(parts) if part != BASE]
        prediction = self._run(call.for_parts(parts), assignments, ("batched", *parts))
        return dict(zip(parts, prediction.split(rows)))

    def _separate(self, call: ModelCall, parts: Sequence[int], purpose: str = "") -> dict[int, Tensor]:
        """The base comes last: nodes that remember the latest call (SAG its attention) remember the base's, as they do
        where the rows of the base are the first of a batch."""
        predictions = {part: self._single(call.for_part(part, purpose), part) for part in reversed(parts)}
        return {part: predictions[part] for part in parts}

    def _single(self, call: ModelCall, part: int) -> Tensor:
        return call.run() if part == BASE else self._whole(call, [Assignment(part, 0, call.rows)], ("single", part))

    def _whole(self, call: ModelCall, assignments: Sequence[Assignment], passes: tuple) -> Tensor:
        """A pass whose rows all have the same terms, so that there is nothing to tell apart."""
        try:
            return self._run(call, assignments, passes)
        except RowsNotSeparable as error:
            raise RunError(f"The terms of the RL model could not be applied: {error}.") from error

    def _run(self, call: ModelCall, assignments: Sequence[Assignment], passes: tuple) -> Tensor:
        with self.terms.attached(assignments, call.rows):
            prediction = call.run()
        if self.terms.passed_by():
            return self._run(call, assignments, passes)
        self._count((passes, call.signature()), self.terms.applied)
        return prediction

    def _count(self, kind: tuple, applied: int) -> None:
        """Terms that never ran would leave the base's picture under the RL model's name.

        None at all is right only where none were waiting (all are in swapped parameters), or where a cache of another node
        answered for the whole model, after a call that ran.
        """
        if applied == 0 and (not self.terms.waiting or any(self.applications.values())):
            return
        expected = self.applications.setdefault(kind, applied)
        if applied not in (0, expected) or expected == 0:
            raise RunError(
                f"{applied} terms of the RL model were applied in a model call, expected {expected or 'some'}. The model "
                "may have been compiled before RLG was attached, or another node replaces its layers: compile with "
                "ComfyUI's TorchCompileModel node, or leave one of the two out."
            )

    def _fits(self, call: ModelCall, parts: Sequence[int]) -> bool:
        """Whether the host's own estimate finds room for all rows at once. `memory_usage_factor` counts the parts."""
        if self.batching == "batched" or call.x.device.type == "cpu":
            return True
        required = self.model.memory_required(list(call.x.shape))
        # Weights that 0.30 may evict at once are free memory to it, which only the patcher knows of.
        patcher = self.model.current_patcher
        free = getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)(call.x.device)
        if required >= free and not self.told:
            self.told = True
            log.info(
                "RLG: base and RL model run in separate passes: all rows at once need %.0f MB, %.0f MB are free.",
                required / 2**20,
                free / 2**20,
            )
        return required < free


def disagreement(batched: dict[int, Tensor], separate: dict[int, Tensor], dtype: torch.dtype) -> str | None:
    """Why `batched` is not `separate` up to rounding in `dtype`; None where it is.

    Rounding is judged against what the terms do: an error near |rl - base| means rows that were mixed up.
    """
    reference = next(iter(separate.values()))
    effect = max(_rms(prediction - reference) for prediction in separate.values())
    error = max(_rms(batched[part] - separate[part]) for part in separate)
    exact = torch.finfo(dtype).eps < 1e-6
    allowed = max(_rms(reference) * torch.finfo(dtype).eps * (64 if exact else 4), effect * (0.01 if exact else 0.25))
    if error <= allowed:
        return None
    return f"batched rows differ from separate passes by {error:.2e} where the RL model changes {effect:.2e}"


def _rms(difference: Tensor) -> float:
    return float(difference.float().square().mean().sqrt())
