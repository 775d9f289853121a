"""The wrapper around a sampling run: sets RLG up for this run, and leaves nothing of it behind."""

from __future__ import annotations

import uuid
from typing import Any
from weakref import WeakKeyDictionary

from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrapperExecutor, WrappersMP, add_wrapper_with_key
from comfy.samplers import CFGGuider
from torch import Tensor

from ...rlg_core.errors import RunError
from .pair import SharedWeights, TwoCheckpoints, refuse_rescaled_weights
from .patches import difference
from .record import KEY, Record, record_of
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
    _refuse_unsupported(guider, record)
    _refuse_lost_settings(record)
    _mirror_later_patches(patcher, record)
    run = Run(guider, record, noise.shape, sigmas)
    add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, run.apply_model, guider.model_options, is_model_options=True)
    if any(expert.branch.rl_cfg > 0 for expert in record.experts):
        _refuse_other_cfg(guider, record, sampler)
        add_wrapper_with_key(
            WrappersMP.PREDICT_NOISE, KEY, run.predict_noise, guider.model_options, is_model_options=True
        )
    previous = _running.get(patcher.model)
    _running[patcher.model] = run
    try:
        with run.accounted():
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
    finally:
        for checkpoint in run.checkpoints():
            checkpoint.cleanup()
        _running.pop(patcher.model)
        if previous is not None:
            _running[patcher.model] = previous


def before_run(patcher: ModelPatcher) -> None:
    """`CallbacksMP.ON_PRE_RUN`: the host has loaded all models; those of two-checkpoint experts start here.

    Raises `RunError` where a sampler starts this model without the wrapper above: it would sample the base alone.
    """
    run = _running.get(patcher.model)
    if run is None:
        raise RunError(
            "A model with RLG on it was started by a sampler or guider that does not run its wrappers (the Dual Model CFG "
            "Guider's negative model, for one). It would sample without RLG: use it as the main model of a guider."
        )
    for checkpoint in run.checkpoints():
        checkpoint.pre_run()


def _refuse_unsupported(guider: Any, record: Record) -> None:
    if getattr(guider, "uncond_model_patcher", None) is not None:
        raise RunError(
            "The Dual Model CFG Guider runs its negative model with the options of its positive one, so RLG cannot tell "
            "base and RL model apart. Use CFGGuider with the RLG model."
        )
    if guider.model_patcher.get_additional_models_with_key("multigpu"):
        raise RunError(
            "RLG does not run split over several GPUs (MultiGPU). Remove the MultiGPU node, or the RLG node."
        )
    if (
        any(isinstance(expert.source, TwoCheckpoints) for expert in record.experts)
        and guider.model_patcher.hook_patches
    ):
        raise RunError(
            "A LoRA or model hook on the conditioning reaches only the base of two checkpoints, not the RL model. Remove "
            "the hook, or use an RL adapter (Load RL Adapter) in place of the RL checkpoint."
        )


def _refuse_lost_settings(record: Record) -> None:
    """What a linearised budget could not honour: it makes one prediction, of which base and RL model are no parts."""
    if record.budget is None or not record.budget.linearised:
        return
    lost = {
        "an RL checkpoint": any(isinstance(expert.source, TwoCheckpoints) for expert in record.experts),
        "rescale": record.rescale > 0,
        "RLG Trace": record.trace is not None,
    }
    found = [name for name, is_set in lost.items() if is_set]
    if found:
        raise RunError(
            f"RLG Budget `linearised` runs one model, so it cannot honour {', '.join(found)}. Set evaluate to exact."
        )


def _refuse_other_cfg(guider: Any, record: Record, sampler: Any) -> None:
    """An RL model with a CFG of its own needs a guider whose `cfg` is all there is to its guidance."""
    if type(guider).predict_noise is not CFGGuider.predict_noise:
        raise RunError(f"RLG Branch `rl_cfg` needs a plain CFG guider, got {type(guider).__name__}. Set rl_cfg to 0.")
    if record.budget is not None and (record.budget.linearised or record.budget.refresh_every > 1):
        raise RunError(
            "RLG Branch `rl_cfg` evaluates base and RL model apart, so RLG Budget has nothing to save: remove one."
        )
    if record.trace is not None:
        raise RunError(
            "RLG Trace watches single model calls, and RLG Branch `rl_cfg` combines after CFG. Remove one of the two."
        )
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    if name.endswith("_cfg_pp"):
        raise RunError(
            f"The sampler {name} reads one unconditional prediction, RLG Branch `rl_cfg` has two. Use another sampler."
        )
    scales = [expert.branch.rl_cfg for expert in record.experts if expert.branch.rl_cfg > 0]
    if not guider.conds.get("negative") and any(scale != 1.0 for scale in scales):
        raise RunError(
            f"RLG Branch `rl_cfg` {scales} needs a negative prompt, and this guider has none. Use CFGGuider."
        )


def _mirror_later_patches(patcher: ModelPatcher, record: Record) -> None:
    """Puts weight patches added after the RLG node (a style LoRA, say) on RL checkpoints too: they are meant for the
    whole model, and shared weights have them for both already."""
    for expert in record.experts:
        if isinstance(expert.source, SharedWeights):
            refuse_rescaled_weights(patcher, expert.source)
        else:
            for checkpoint in patcher.get_additional_models_with_key(KEY):
                if checkpoint.model is expert.source.model:
                    _mirror(patcher, expert.source, checkpoint)


def _mirror(patcher: ModelPatcher, source: TwoCheckpoints, checkpoint: ModelPatcher) -> None:
    patches = {key: list(own) for key, own in source.patcher.patches.items()}
    changed = False
    for key, later in patcher.patches.items():
        removed, added = difference(source.base_patches.get(key, []), later)
        if removed:
            raise RunError(
                f"{key}: a weight patch of the base was removed after the RLG node. Apply it before, or not at all."
            )
        if added:
            patches[key] = [*patches.get(key, []), *added]
            changed = True
    if changed:
        checkpoint.patches = patches
        # The same patches get the same id in every run, so that the host reloads weights only when they changed.
        checkpoint.patches_uuid = uuid.uuid5(source.patcher.patches_uuid, str(patcher.patches_uuid))
