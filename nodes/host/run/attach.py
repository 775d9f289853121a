"""Puts RLG on a MODEL: the record, the models it needs loaded, and the wrapper that runs it."""

from __future__ import annotations

from dataclasses import replace

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP, add_wrapper_with_key

from ....rlg_core.budget import Budget
from ....rlg_core.errors import RunError
from ....rlg_core.trace import TraceLog
from ..models.relation import KEY
from . import wrapper
from .record import GUARD, Expert, Record, is_guarded, record_of


def with_expert(model: ModelPatcher, expert: Expert, rescale: float) -> ModelPatcher:
    """A clone of `model` guided by one more expert. Of several rescales the strongest counts, whatever their order."""
    record = record_of(model) or Record()
    return with_record(model, replace(record, experts=(*record.experts, expert), rescale=max(record.rescale, rescale)))


def with_budget(model: ModelPatcher, budget: Budget) -> ModelPatcher:
    """A clone of `model` that runs within `budget`. Raises `RunError` if it has no RLG on it, or a budget already."""
    record = _existing(model, "RLG Budget")
    if record.budget != Budget():
        raise RunError(
            "This model has an RLG Budget already, and a second one would replace nothing. Remove one of the two."
        )
    return with_record(model, replace(record, budget=budget))


def with_trace(model: ModelPatcher, log: TraceLog) -> ModelPatcher:
    """A clone of `model` whose runs are recorded in `log`. Raises `RunError` if it has no RLG on it."""
    return with_record(model, replace(_existing(model, "RLG Trace"), trace=log))


def _existing(model: ModelPatcher, node: str) -> Record:
    record = record_of(model)
    if record is None:
        raise RunError(f"{node} got a model without RLG on it. Wire it after a Reinforcement Learning Guidance node.")
    return record


def with_record(model: ModelPatcher, record: Record) -> ModelPatcher:
    """A clone of `model` that carries `record` and samples by it."""
    clone = model.clone()
    clone.set_attachments(KEY, record)
    clone.set_additional_models(KEY, [expert.relation.patcher.clone() for expert in record.experts])
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, wrapper.outer_sample)
    clone.remove_callbacks_with_key(CallbacksMP.ON_PRE_RUN, KEY)
    clone.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, wrapper.before_run)
    if not is_guarded(clone):
        options = clone.model_options
        add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, GUARD, wrapper.require_record, options, is_model_options=True)
    return clone
