"""The state of one sampling run with RLG: made when sampling starts, gone when it ends."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...rlg_core.combine import Weight, base_weight, geometric_mean, is_zero, rescale
from ...rlg_core.errors import RunError
from .calls import BASE, ModelCall
from .pair import SharedWeights, TwoCheckpoints
from .passes import SharedPasses
from .record import KEY, Expert, Record


class Bounds:
    """An expert's window in sigmas, compared in float32 so that steps on a boundary stay inside (both ends count)."""

    def __init__(self, expert: Expert, model_sampling: Any):
        self.window = expert.window
        self.first = self._sigma(model_sampling, expert.window.start_percent)
        self.last = self._sigma(model_sampling, expert.window.end_percent)

    @staticmethod
    def _sigma(model_sampling: Any, percent: float) -> float:
        return float(torch.tensor(float(model_sampling.percent_to_sigma(percent)), dtype=torch.float32))

    def scale_at(self, sigma: float) -> float:
        return self.window.scale_at(self.last <= sigma <= self.first)


class Run:
    """Answers each call of the base model with the geometric mean of base and experts."""

    def __init__(self, patcher: ModelPatcher, record: Record):
        self.patcher, self.record = patcher, record
        self.bounds = [Bounds(expert, patcher.get_model_object("model_sampling")) for expert in record.experts]
        self.shared = [k for k, expert in enumerate(record.experts, 1) if isinstance(expert.source, SharedWeights)]
        self.passes: SharedPasses | None = None

    # Which models a step needs

    def weights(self, sigma: float) -> list[float]:
        """`w_k` of every expert at `sigma`."""
        return [bounds.scale_at(sigma) for bounds in self.bounds]

    def parts(self, weights: Sequence[Weight]) -> list[int]:
        """The parts whose predictions count: 0 for the base, k for expert k."""
        coefficients = [base_weight(weights), *weights]
        return [part for part, weight in enumerate(coefficients) if not is_zero(weight)]

    def most_rows(self, sigmas: Tensor) -> int:
        """How many times the host's rows the largest batched call of this run has."""
        sharing = {BASE, *self.shared}
        return max((len(sharing.intersection(self.parts(self.weights(float(s))))) for s in sigmas[:-1]), default=1) or 1

    # Around the run

    @contextmanager
    def accounted(self, sigmas: Tensor) -> Iterator[None]:
        """Makes the host's memory estimates count the rows of all parts, while the run lasts."""
        model, factor = self.patcher.model, self.patcher.model.memory_usage_factor
        model.memory_usage_factor = factor * self.most_rows(sigmas)
        try:
            yield
        finally:
            model.memory_usage_factor = factor

    def checkpoints(self) -> list[ModelPatcher]:
        """The patchers of experts with weights of their own, as the host loaded them for this run."""
        own = {expert.source.model for expert in self.record.experts if isinstance(expert.source, TwoCheckpoints)}
        return [patcher for patcher in self.patcher.get_additional_models_with_key(KEY) if patcher.model in own]

    # In the run

    def apply_model(self, executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **conds) -> Tensor:
        """`WrappersMP.APPLY_MODEL`: denoised [rows, ...] of the geometric mean, for one call of the base."""
        if executor.class_obj is not self.patcher.model:
            raise RunError(
                "The sampler ran another model with the options of the one that has RLG on it, so base and RL model are "
                "unknown here. Use a guider with one model."
            )
        call = ModelCall(executor, x, t, c_concat, c_crossattn, control, transformer_options, conds)
        weights = self.weights(call.sigma)
        parts = self.parts(weights)
        predictions = self._evaluate(call, parts)
        mean = geometric_mean(
            predictions.get(BASE), [(weights[part - 1], predictions[part]) for part in parts if part != BASE]
        )
        if self.record.rescale and len(parts) > 1:
            return rescale(mean, predictions[next(part for part in parts if part != BASE)], self.record.rescale)
        return mean

    def _evaluate(self, call: ModelCall, parts: Sequence[int]) -> dict[int, Tensor]:
        sharing = [part for part in parts if part == BASE or part in self.shared]
        predictions = self._shared_passes().evaluate(call, sharing) if sharing else {}
        for part in parts:
            if part not in predictions:
                predictions[part] = call.for_part(part).on(self.record.experts[part - 1].source.model).run()
        return predictions

    def _shared_passes(self) -> SharedPasses:
        if self.passes is None:
            sources = {part: self.record.experts[part - 1].source for part in self.shared}
            self.passes = SharedPasses(self.patcher.model, sources)
        return self.passes
