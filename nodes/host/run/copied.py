"""Refuses Control-LoRAs where the RL model changes what they are made of.

The host makes their network, at the start of a run, of the weights that are then in memory: the base's. In the RL
model's own graph it is made of the RL model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from comfy.model_base import BaseModel

from ....rlg_core.errors import RunError
from ..compat import COPIED_BY_CONTROL_LORAS, is_control_lora
from .precomputed import changes
from .record import Record


def refuse_copied(guider: Any, record: Record) -> None:
    """Raises `RunError` if a prompt has a Control-LoRA, and an RL model other weights in the layers it copies."""
    if not any(is_control_lora(control) for control in _controls(guider)):
        return
    model = guider.model_patcher.model
    copied = _copied(model)
    changed = [name for name in copied if any(changes(expert.relation, model, {name}) for expert in record.experts)]
    if changed:
        raise RunError(
            f"A Control-LoRA is made of the model's own weights, the base's for base and RL model alike, and the RL "
            f"model changes {len(changed)} of the {len(copied)} layers, first {changed[0]}. Use a ControlNet with "
            "weights of its own, or sample without RLG."
        )


def _controls(guider: Any) -> Iterator[Any]:
    """The ControlNets of all prompts, with those that each of them follows."""
    for conds in guider.conds.values():
        for cond in conds:
            control = cond.get("control")
            while control is not None:
                yield control
                control = getattr(control, "previous_controlnet", None)


def _copied(model: BaseModel) -> list[str]:
    """The layers that have weights of their own in the part of the network that is copied."""
    parts = [
        (name, module)
        for name, module in model.diffusion_model.named_modules()
        if name.partition(".")[0] in COPIED_BY_CONTROL_LORAS
    ]
    return [f"diffusion_model.{name}" for name, own in parts if next(own.parameters(recurse=False), None) is not None]
