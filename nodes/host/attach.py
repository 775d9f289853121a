"""Puts RLG on a MODEL: the record, the models it needs loaded, and the wrapper that runs it."""
from __future__ import annotations

from dataclasses import replace

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP

from . import sampling
from .record import KEY, Expert, Record, record_of


def with_expert(model: ModelPatcher, expert: Expert, rescale: float) -> ModelPatcher:
    """A clone of `model` guided by one expert more; the rescale given last counts."""
    record = record_of(model) or Record()
    return with_record(model, replace(record, experts=(*record.experts, expert), rescale=rescale))


def with_record(model: ModelPatcher, record: Record) -> ModelPatcher:
    """A clone of `model` that carries `record` and samples by it."""
    clone = model.clone()
    clone.set_attachments(KEY, record)
    clone.set_additional_models(KEY, [expert.source.patcher for expert in record.experts])
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sampling.outer_sample)
    clone.remove_callbacks_with_key(CallbacksMP.ON_PRE_RUN, KEY)
    clone.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, sampling.before_run)
    return clone
