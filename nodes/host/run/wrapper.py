"""The wrapper around a sampling run: sets RLG up for this run, and leaves nothing of it behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, add_wrapper_with_key
from torch import Tensor

from ....rlg_core.errors import RunError
from ..models.relation import KEY
from .downstream import brought_up_to_date
from .memory import counted
from .record import record_of
from .refusals import refuse
from .run import Run

_running: WeakKeyDictionary[BaseModel, Run] = WeakKeyDictionary()
"""The runs under way, by base model; empty between runs."""


def outer_sample(
    executor: WrapperExecutor,
    noise: Tensor,
    latent_image: Tensor,
    sampler: Any,
    sigmas: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Tensor:
    """`WrappersMP.OUTER_SAMPLE`: samples with the record of the guider's model."""
    guider = executor.class_obj
    patcher: ModelPatcher = guider.model_patcher
    record = record_of(patcher)
    refuse(guider, record, sampler)
    with brought_up_to_date(patcher, record) as current:
        run = Run(guider, current, noise.shape, sigmas)
        for kind, function in run.wrappers().items():
            add_wrapper_with_key(kind, KEY, _uncopied(function), guider.model_options, is_model_options=True)
        counts = counted(patcher.model, run.most_rows())
        with _under_way(patcher.model, run), counts, run.passes.in_a_run(), run.prompts.watch:
            sampled = executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        run.end()
        return sampled


def _uncopied(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function`, and not a copy of all it belongs to, where a node copies the options of a model while it samples."""
    return lambda *args, **kwargs: function(*args, **kwargs)


def require_record(executor: WrapperExecutor, *args: Any, **kwargs: Any) -> Tensor:
    """`WrappersMP.OUTER_SAMPLE` in the options: raises `RunError` if a later node has kept only these of RLG."""
    record_of(executor.class_obj.model_patcher)
    return executor(*args, **kwargs)


@contextmanager
def _under_way(model: BaseModel, run: Run) -> Iterator[None]:
    """Makes `run` answer for `model` while the context lasts. A run that it interrupts continues afterwards."""
    previous = _running.get(model)
    _running[model] = run
    try:
        yield
    finally:
        for checkpoint in run.checkpoints():
            checkpoint.cleanup()
        _running.pop(model)
        if previous is not None:
            _running[model] = previous


def before_run(patcher: ModelPatcher) -> None:
    """`CallbacksMP.ON_PRE_RUN`: the host has loaded all models; those of two-checkpoint experts start here.

    Raises `RunError` if a sampler starts this model without the wrapper above: it would sample the base alone.
    """
    run = _running.get(patcher.model)
    if run is None:
        raise RunError(
            "A model with RLG on it was started by a sampler or guider that does not run its wrappers (the Dual Model "
            "CFG Guider's negative model, for one). It would sample without RLG: use it as the main model of a guider."
        )
    for checkpoint in run.checkpoints():
        checkpoint.pre_run()
    run.prompts.begin()
