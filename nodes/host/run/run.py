"""The state of one sampling run with RLG: made when sampling starts, gone when it ends."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ....rlg_core.combine import Weight, capped, geometric_mean, rescale, where_guided
from ....rlg_core.errors import RunError
from ..compat import weights_in_memory
from .calls import BASE, MERGED, ModelCall
from .own_cfg import FOCUS, OwnCFG
from .passes import Passes, Turn
from .precomputed import PreparedPrompts
from .progress import Progress
from .record import Record
from .regions import Regions
from .reuse import BaseReuse
from .scales import Clock, Scales
from .segmented import Segmented
from .skipped import SkippedSteps
from .step import Step
from .tracing import RunTrace


class Run:
    """Answers each call of the base model with the geometric mean of base and experts."""

    def __init__(self, guider: Any, record: Record, latent_shape: Sequence[int], sigmas: Tensor):
        self.patcher: ModelPatcher = guider.model_patcher
        self.record, self.budget = record, record.budget
        self.sigmas = [float(sigma) for sigma in sigmas]
        clock, regions = Clock(self.patcher.get_model_object("model_sampling")), Regions(guider, latent_shape)
        self.scales = Scales(record.experts, clock, regions)
        self.own_cfg = OwnCFG(record, self.scales)
        self.shared = [role for role, expert in enumerate(record.experts, 1) if not expert.has_own_weights]
        relations = {role: expert.relation for role, expert in enumerate(record.experts, 1)}
        function_wrapper = guider.model_options.get("model_function_wrapper")
        self.passes = Passes(self.patcher, relations, self.budget.batching, function_wrapper)
        self.prompts = PreparedPrompts(self.patcher)
        self.skipped = SkippedSteps()
        self.weights: Hashable = None
        self.is_capped = any(expert.max_ratio > 0 for expert in record.experts)
        self.reuse = BaseReuse(self.budget, self.sigmas, clock) if self.budget.refresh_every > 1 else None
        self.trace = None
        if record.trace is not None:
            self.trace = RunTrace(record.trace, guider, self.sigmas, clock, regions, self._compared())
            self.trace.begin()

    # Around the run

    def wrappers(self) -> dict[str, Callable[..., Tensor]]:
        """What the host is to call in this run, by kind: around each call of the model and, if need be, around more."""
        around = {WrappersMP.APPLY_MODEL: self.apply_model}
        if self.budget.is_segmented:
            around[WrappersMP.PREDICT_NOISE] = Segmented(self.scales).predict_noise
        if self.record.has_own_cfg:
            around[WrappersMP.PREDICT_NOISE] = self.own_cfg.predict_noise
        if self.record.listed is not None:
            around[WrappersMP.SAMPLER_SAMPLE] = Progress(self.record.listed).sampler_sample
        return around

    def most_rows(self) -> int:
        """The rows of this run's largest batched call, as a multiple of the rows that the host knows."""
        if self.budget.is_linearised or self.budget.batching == "sequential":
            return 1
        sharing, always = {BASE, *self.shared}, [BASE] if self.is_capped else []
        roles = ([*always, *self.scales.roles_at(sigma)] for sigma in self.sigmas[:-1])
        most = max((len(sharing.intersection(own)) for own in roles), default=1) or 1
        return min(most, 2) if self.budget.merges_experts else most

    def _compared(self) -> list[float]:
        """The sigmas at which base and experts both run; none if no single linearised evaluation can stand for them."""
        shares_all = len(self.shared) == len(self.record.experts)
        masked = any(expert.mask is not None for expert in self.record.experts)
        if not shares_all or self.record.rescale or masked or self.is_capped:
            return []
        return [sigma for sigma in self.sigmas[:-1] if len(self.scales.roles_at(sigma)) > 1]

    def checkpoints(self) -> list[ModelPatcher]:
        """The patchers of experts with weights of their own, as the host loaded them for this run."""
        own = [expert.relation.model for expert in self.record.experts if expert.has_own_weights]
        patchers = self.patcher.get_nested_additional_models()
        return [patcher for patcher in patchers if any(patcher.model is model for model in own)]

    def end(self) -> None:
        """Says what the finished run has shown of itself."""
        if self.reuse is not None:
            self.reuse.report()

    # In the run

    def apply_model(self, executor, x, t, c_concat, c_crossattn, control, transformer_options, **conds) -> Tensor:
        """`WrappersMP.APPLY_MODEL`: denoised [rows, ...] of the geometric mean, for one call of the base."""
        if executor.class_obj is not self.patcher.model:
            raise RunError(
                "The sampler ran another model with the options of the one that has RLG on it, so base and RL model "
                "are unknown here. Use a guider with one model."
            )
        self.prompts.require_same()
        weights = weights_in_memory(self.patcher.model)
        if None not in (weights, self.weights) and weights != self.weights:
            raise RunError(
                "The sampler changed the weights in memory during the run: a second LoRA on the same weights "
                "(AutoGuidance), or a LoRA that is put on anew between steps. RLG cannot tell whose they are. Give a "
                "second model weights of its own, use a guider with one model, or take the LoRA's schedule off."
            )
        self.weights = weights or self.weights
        call = ModelCall(executor, x, t, c_concat, c_crossattn, control, transformer_options, conds)
        return self.answer(call, self.own_cfg.focused(call, self.scales.of(call.batch)))

    def answer(self, call: ModelCall, weights: Sequence[Weight]) -> Tensor:
        """The geometric mean at `weights`, within the run's budget."""
        step = Step.of(call, weights, self.budget.merges_experts, self.is_capped)
        with self.passes.turn(call, step.shares) as turn:
            if self.budget.is_linearised and step.is_mixed:
                return turn.linearised(step.terms())
            if self.trace is not None and self.trace.checks(step):
                # Before the others: nodes that remember the latest call must remember the base's.
                step.linearised = turn.linearised(step.terms())
            self._predict(step, turn)
        step.mean = self._combined(step)
        if self.trace is not None:
            self.trace.observe(step)
        return step.mean

    def _predict(self, step: Step, turn: Turn) -> None:
        """Fills in the predictions of all roles, the base's by reuse where the budget allows."""
        difference = None
        if self.reuse is not None and step.compares:
            self.reuse.note(step)
            difference = self.reuse.difference(step)
        step.evaluated = step.roles if difference is None else step.experts
        self.skipped.begin(step.call, step.evaluated)
        step.predictions = turn.evaluate(step.evaluated)
        if difference is not None:
            step.predictions[BASE] = self.reuse.read_off(step, difference)
        elif self.reuse is not None and step.compares:
            self.reuse.observe(step)

    def _combined(self, step: Step) -> Tensor:
        base = step.predictions[BASE] if BASE in step.roles else None
        mean = geometric_mean(base, [(self._weight(step, role), step.predictions[role]) for role in step.experts])
        if not (self.record.rescale and step.is_mixed) or FOCUS in step.call.transformer_options:
            return mean
        strength = where_guided(self.record.rescale, (step.weights[role] for role in step.experts))
        return rescale(mean, step.predictions[step.experts[0]], strength)

    def _weight(self, step: Step, role: int) -> Weight:
        """The weight of an expert, lowered where its `max_ratio` bounds what it adds to the velocity."""
        max_ratio = 0.0 if role == MERGED else self.record.experts[role - 1].max_ratio
        if max_ratio == 0.0:
            return step.weights[role]
        base = step.predictions[BASE]
        return capped(step.weights[role], step.predictions[role] - base, step.call.x - base, max_ratio)
