"""What a person should know of how base and RL model are wired, where it may not be what they meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comfy.model_patcher import ModelPatcher

from .patches import at_work, difference
from .relation import PREDICTING, differing_injections

IDENTICAL = (
    "model and rl_model are the same model, so this node changes nothing. Is the LoRA loader bypassed, or the same "
    "wire in both inputs?"
)


def wiring_notice(model: ModelPatcher, rl_model: ModelPatcher) -> str | None:
    """What is to be said of two models that differ, or None if there is nothing."""
    notices = (of(model, rl_model) for of in (_weights_notice, _injections_notice, _options_notice))
    return " ".join(notice for notice in notices if notice) or None


def _weights_notice(model: ModelPatcher, rl_model: ModelPatcher) -> str | None:
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


def _injections_notice(model: ModelPatcher, rl_model: ModelPatcher) -> str | None:
    """Says so where one of two checkpoints carries injected modules that the other lacks."""
    names = [] if model.model is rl_model.model else differing_injections(model.injections, rl_model.injections)
    if not names:
        return None
    return (
        f"model and rl_model differ by injected modules ({_first(names)}), as a LoRA loaded in bypass mode injects "
        "them: each is run with its own. To have them in both, load that LoRA on both models."
    )


def _options_notice(model: ModelPatcher, rl_model: ModelPatcher) -> str | None:
    """Says so where a node has put on `rl_model` alone what is no weight: both models are run with `model`'s."""
    missing = _options(rl_model) - _options(model)
    if model.model is rl_model.model:  # another checkpoint runs with objects of its own
        missing += Counter(rl_model.object_patches.keys() - model.object_patches.keys() - PREDICTING.keys())
    if not missing:
        return None
    return (
        f"rl_model carries what model lacks ({_first(sorted(missing))}): it is without effect, as of rl_model only "
        "the weights and the model sampling count. Put the node that makes it before the RL adapter, or after this "
        "one, for both models."
    )


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _options(patcher: ModelPatcher) -> Counter[str]:
    """How many functions and values nodes have put on a model, by their places in its options and among wrappers."""
    return Counter(_places(patcher.model_options)) + Counter(_places(patcher.wrappers))


def _places(held: Mapping[str, Any], place: str = "") -> Iterator[str]:
    for name, value in held.items():
        own = place if name == "transformer_options" else f"{place} {name}".strip()
        if isinstance(value, Mapping):
            yield from _places(value, own)
        else:
            yield from [own] * (len(value) if isinstance(value, list) else 1)


def _patched_on_one_side(model: ModelPatcher, rl_model: ModelPatcher) -> tuple[int, int]:
    """How many weights have patches that only `model` has, and how many have patches that only `rl_model` has."""
    lost = gained = 0
    for key in dict.fromkeys([*model.patches, *rl_model.patches]):
        removed, added = difference(*(at_work(patcher.patches.get(key, [])) for patcher in (model, rl_model)))
        lost, gained = lost + bool(removed), gained + bool(added)
    return lost, gained
