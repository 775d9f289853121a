"""What a person should know of how base and RL model are wired, where it may not be what they meant."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher

from .patches import at_work, difference

IDENTICAL = (
    "model and rl_model are the same model, so this node changes nothing. Is the LoRA loader bypassed, or the same "
    "wire in both inputs?"
)


def wiring_notice(model: ModelPatcher, rl_model: ModelPatcher) -> str | None:
    """Says so where `model` carries weight patches that `rl_model` lacks: guidance takes them away as it goes."""
    lost, gained = _patched_on_one_side(model, rl_model)
    if not lost:
        return None
    if model.model is rl_model.model and not gained:
        return (
            f"rl_model is model without {lost} of its weight changes, so a scale above 0 guides away from them. If you "
            "want to guide towards them, the two inputs are swapped: the plain model goes into model."
        )
    return (
        f"model carries {lost} weight changes (a LoRA?) that rl_model lacks: they count in full at scale 0, not at "
        "all at scale 1, and are subtracted above. To have them in both, load that LoRA before the RL adapter, or on "
        "both models."
    )


def _patched_on_one_side(model: ModelPatcher, rl_model: ModelPatcher) -> tuple[int, int]:
    """How many weights have patches that only `model` has, and how many have patches that only `rl_model` has."""
    lost = gained = 0
    for key in dict.fromkeys([*model.patches, *rl_model.patches]):
        removed, added = difference(*(at_work(patcher.patches.get(key, [])) for patcher in (model, rl_model)))
        lost, gained = lost + bool(removed), gained + bool(added)
    return lost, gained
