"""Refuses guiders and samplers that cannot honour a record.

Settings of a record that exclude each other are refused earlier, when it is built.
"""

from __future__ import annotations

from typing import Any

from comfy.samplers import CFGGuider

from ....rlg_core.errors import RunError
from ..compat import is_dual_model, is_split_over_gpus, is_training, keeps_its_own_caches, reads_unconditional
from ..models.patches import Patch, depends_on_weight
from ..models.stock import is_idle
from .copied import refuse_copied
from .precomputed import refuse_precomputed
from .record import Record


def refuse(guider: Any, record: Record, sampler: Any) -> None:
    """Raises `RunError` if this guider or sampler would silently lose a part of `record`."""
    if is_dual_model(guider):
        raise RunError(
            "The Dual Model CFG Guider runs its negative model with the options of its positive one, so RLG cannot "
            "tell base and RL model apart. Set its cfg to 1, where it runs its positive model only, or use CFGGuider "
            "with the RLG model."
        )
    if is_split_over_gpus(guider.model_patcher):
        raise RunError(
            "RLG does not run split over several GPUs (MultiGPU): that node runs deep clones of the model on the other "
            "devices, and they do not get what the RL model changes. Remove the MultiGPU node; with Select Model "
            "Device on rl_model, before the RLG node, base and RL model run on a device each."
        )
    if is_training(guider, sampler):
        raise RunError("RLG guides while sampling, and this node trains its model. Give it the model without RLG.")
    if keeps_its_own_caches(sampler):
        raise RunError(
            "SamplerARVideo keeps keys and values for one model only, so base and RL model would share them. Use "
            "another sampler, or the model without RLG."
        )
    if any(expert.has_own_weights for expert in record.experts) and guider.model_patcher.hook_patches:
        raise RunError(
            "A LoRA or model hook on the conditioning reaches only the base of two checkpoints, not the RL model. "
            "Remove the hook, or use an RL adapter (Load RL Adapter) in place of the RL checkpoint."
        )
    _require_hooks_that_add(guider, record)
    refuse_precomputed(guider, record)
    refuse_copied(guider, record)
    if record.budget.is_segmented:
        _require_plain_cfg(guider, sampler, "RLG Budget `segmented`", "Set evaluate to exact.")
    if record.has_own_cfg:
        _require_plain_cfg(guider, sampler, "RLG Branch `rl_cfg`", "Set rl_cfg to 0.")
        _require_negative_prompt(guider, record)


def _require_hooks_that_add(guider: Any, record: Record) -> None:
    """Raises `RunError` where a hook on a prompt changes by its size a weight that an RL adapter changes too."""
    experts = [expert.relation for expert in record.experts if not expert.has_own_weights]
    names = {name for relation in experts for name in relation.bank.names}
    for own in guider.model_patcher.hook_patches.values():
        for key, patches in own.items():
            if key.rsplit(".", 1)[0] in names and any(_depends_on_weight(patch) for patch in patches):
                raise RunError(
                    f"{key}: a LoRA hook on the conditioning changes this weight by an amount that depends on it "
                    "(DoRA, say), and the RL adapter changes it too: the hook would see the base's weight for both. "
                    "Load that LoRA without a hook, or remove it."
                )


def _depends_on_weight(patch: Patch) -> bool:
    """As on models; but a model as a LoRA adds its difference to the weight before any patch, whatever others do."""
    is_model = isinstance(patch[1], tuple) and patch[1][0] == "model_as_lora" and patch[2] == 1.0
    return not is_model and not is_idle(*patch[:3]) and depends_on_weight(patch)


def _require_plain_cfg(guider: Any, sampler: Any, setting: str, remedy: str) -> None:
    """Raises `RunError` unless `cfg` is all there is to the guidance, so that it can be set for one call."""
    if type(guider).predict_noise is not CFGGuider.predict_noise:
        raise RunError(f"{setting} needs a plain CFG guider, got {type(guider).__name__}. {remedy}")
    if reads_unconditional(sampler):
        raise RunError(
            f"The sampler {sampler.sampler_function.__name__} reads one unconditional prediction per step, and "
            f"{setting} has another or none. Use another sampler."
        )


def _require_negative_prompt(guider: Any, record: Record) -> None:
    scales = [expert.branch.rl_cfg for expert in record.experts if expert.branch.rl_cfg > 0]
    if not guider.conds.get("negative") and any(scale != 1.0 for scale in scales):
        raise RunError(
            f"RLG Branch `rl_cfg` {scales} needs a negative prompt, and this guider has none. Use CFGGuider."
        )
