"""The state of one sampling run with RLG: made when sampling starts, gone when it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...rlg_core.budget import Budget
from ...rlg_core.combine import Weight, base_weight, geometric_mean, is_zero, rescale
from ...rlg_core.errors import RunError
from .calls import BASE, ModelCall
from .pair import SharedWeights, TwoCheckpoints
from .passes import SharedPasses
from .record import KEY, Record
from .regions import Regions
from .reuse import BaseReuse
from .tracing import RunTrace
from .weights import Clock, Weights, needed_parts


class Run:
    """Answers each call of the base model with the geometric mean of base and experts."""

    def __init__(self, guider: Any, record: Record, latent_shape: Sequence[int], sigmas: Tensor):
        self.patcher: ModelPatcher = guider.model_patcher
        self.record = record
        self.budget = record.budget or Budget()
        self.clock = Clock(self.patcher.get_model_object("model_sampling"))
        self.weights = Weights(record.experts, self.clock, Regions(guider, latent_shape))
        self.sigmas = [float(sigma) for sigma in sigmas]
        self.reuse = BaseReuse(self.budget, self.sigmas)
        self.shared = [k for k, expert in enumerate(record.experts, 1) if isinstance(expert.source, SharedWeights)]
        sources = {part: record.experts[part - 1].source for part in self.shared}
        self.passes = SharedPasses(self.patcher, sources, self.budget.batching)
        self.focus: frozenset[int] | None = None
        self.trace = (
            None if record.trace is None else RunTrace(record.trace, guider, self.sigmas, self.clock, self._compared())
        )

    # Around the run

    @contextmanager
    def accounted(self) -> Iterator[None]:
        """Makes the host's memory estimates count the rows of all parts, while the run lasts."""
        model, factor = self.patcher.model, self.patcher.model.memory_usage_factor
        model.memory_usage_factor = factor * self._most_rows()
        try:
            yield
        finally:
            model.memory_usage_factor = factor

    def _most_rows(self) -> int:
        """How many times the host's rows the largest batched call of this run has."""
        if self.budget.linearised or self.budget.batching == "sequential":
            return 1
        sharing = {BASE, *self.shared}
        return (
            max((len(sharing.intersection(self.weights.parts_at(sigma))) for sigma in self.sigmas[:-1]), default=1) or 1
        )

    def _compared(self) -> list[float]:
        """The sigmas at which base and experts both run, where one evaluation can stand for all of them at first order."""
        if (
            len(self.shared) < len(self.record.experts)
            or self.record.rescale
            or any(e.mask is not None for e in self.record.experts)
        ):
            return []
        return [sigma for sigma in self.sigmas[:-1] if len(self.weights.parts_at(sigma)) > 1]

    def checkpoints(self) -> list[ModelPatcher]:
        """The patchers of experts with weights of their own, as the host loaded them for this run."""
        own = [expert.source.model for expert in self.record.experts if isinstance(expert.source, TwoCheckpoints)]
        patchers = self.patcher.get_additional_models_with_key(KEY)
        return [patcher for patcher in patchers if any(patcher.model is model for model in own)]

    @contextmanager
    def focused(self, parts: Sequence[int]) -> Iterator[None]:
        """Inside, only the experts of `parts` count; a lone expert counts fully, in place of the base."""
        before, self.focus = self.focus, frozenset(parts)
        try:
            yield
        finally:
            self.focus = before

    # In the run

    def apply_model(self, executor, x, t, c_concat, c_crossattn, control, transformer_options, **conds) -> Tensor:
        """`WrappersMP.APPLY_MODEL`: denoised [rows, ...] of the geometric mean, for one call of the base."""
        if executor.class_obj is not self.patcher.model:
            raise RunError(
                "The sampler ran another model with the options of the one that has RLG on it, so base and RL model are "
                "unknown here. Use a guider with one model."
            )
        call = ModelCall(executor, x, t, c_concat, c_crossattn, control, transformer_options, conds)
        return self.answer(call, self._weights(call))

    def answer(self, call: ModelCall, weights: Sequence[Weight]) -> Tensor:
        """The geometric mean at `weights`, within the run's budget."""
        parts = needed_parts(weights)
        if self.budget.linearised and len(parts) > 1:
            return self.passes.linearised(call, self._terms(weights, parts))
        # Before the others: nodes that remember the latest call must remember the base's.
        linearised = self.passes.linearised(call, self._terms(weights, parts)) if self._checks(call, parts) else None
        difference = self.reuse.difference(call, parts[1]) if BASE in parts and len(parts) > 1 else None
        predictions = self._evaluate(call, parts if difference is None else parts[1:])
        if difference is not None:
            predictions[BASE] = self.reuse.base(call, predictions[parts[1]], difference)
        elif BASE in predictions and len(parts) > 1:
            self.reuse.observe(call, parts[1], predictions[BASE], predictions[parts[1]], weights[parts[1] - 1])
        mean = self._combined(predictions, weights, parts)
        if self.trace is not None:
            self.trace.observe(
                call, self.weights.regions, predictions, weights, mean, difference is not None, linearised
            )
        return mean

    def _checks(self, call: ModelCall, parts: Sequence[int]) -> bool:
        return self.trace is not None and len(parts) > 1 and self.trace.checks(call, self.weights.regions)

    @staticmethod
    def _terms(weights: Sequence[Weight], parts: Sequence[int]) -> dict[int, Weight]:
        return {part: weights[part - 1] for part in parts if part != BASE}

    def _weights(self, call: ModelCall) -> list[Weight]:
        weights = self.weights.of(call)
        if self.focus is None:
            return weights
        if len(self.focus) == 1 and self.record.experts[min(self.focus) - 1].branch.rl_cfg > 0:
            return [1.0 if part in self.focus else 0.0 for part in range(1, len(weights) + 1)]
        return [weight if part in self.focus else 0.0 for part, weight in enumerate(weights, 1)]

    def _combined(self, predictions: dict[int, Tensor], weights: Sequence[Weight], parts: Sequence[int]) -> Tensor:
        experts = [part for part in parts if part != BASE]
        mean = geometric_mean(
            predictions.get(BASE) if BASE in parts else None, [(weights[p - 1], predictions[p]) for p in experts]
        )
        if len(parts) > 1 and self.focus is None:
            return self._rescaled(mean, predictions[experts[0]])
        return mean

    def _rescaled(self, mean: Tensor, first_expert: Tensor) -> Tensor:
        return rescale(mean, first_expert, self.record.rescale) if self.record.rescale else mean

    def _evaluate(self, call: ModelCall, parts: Sequence[int]) -> dict[int, Tensor]:
        own = [part for part in parts if part != BASE and part not in self.shared]
        predictions = {part: call.for_part(part).on(self.record.experts[part - 1].source.model).run() for part in own}
        return predictions | self.passes.evaluate(call, [part for part in parts if part not in own])

    # Experts with a CFG of their own

    def predict_noise(self, executor, x, timestep, model_options, seed) -> Tensor:
        """`WrappersMP.PREDICT_NOISE`: `CFG_s(base) + sum_k w_k (CFG_{c_k}(rl_k) - CFG_s(base))`, denoised [items, ...]."""
        whole = ModelCall(executor, x, timestep, None, None, None, {"cond_or_uncond": [0], "uuids": [None]}, {})
        weights = {part: w for part, w in enumerate(self.weights.of(whole), 1) if not is_zero(w)}
        own = [part for part in weights if self.record.experts[part - 1].branch.rl_cfg > 0]
        rest = [part for part in weights if part not in own]
        if not own:
            return executor(x, timestep, model_options, seed)
        guided = [(weights[part], self._with_own_cfg(executor, part, x, timestep, model_options, seed)) for part in own]
        if not rest and is_zero(base_weight([weights[part] for part in own])):
            return geometric_mean(None, guided)
        base = self._focused_run([], executor, x, timestep, model_options, seed)
        mean = geometric_mean(base, guided)
        if rest:
            mean = mean + self._focused_run(rest, executor, x, timestep, model_options, seed) - base
        return self._rescaled(mean, guided[0][1])

    def _focused_run(self, parts: Sequence[int], executor, *args: Any) -> Tensor:
        with self.focused(parts):
            return executor(*args)

    def _with_own_cfg(self, executor, part: int, *args: Any) -> Tensor:
        guider, cfg = executor.class_obj, self.record.experts[part - 1].branch.rl_cfg
        sampler_cfg, guider.cfg = guider.cfg, cfg
        try:
            return self._focused_run([part], executor, *args)
        finally:
            guider.cfg = sampler_cfg
