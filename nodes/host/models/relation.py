"""How an RL model relates to its base: one copy of the weights with terms beside it, or two checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import nn

from ....rlg_core.errors import PairError
from ..compat import is_quantisation_key
from .patches import Patch, copied
from .term_bank import TermBank, term_bank

KEY = "rlg"
"""The name under which a MODEL keeps what RLG nodes have put on it."""


@dataclass(frozen=True)
class SharedWeights:
    """An RL model that shares every weight with its base.

    `patcher` holds the terms that make the difference from the base as it was under `base_patches`.
    """

    patcher: ModelPatcher
    base_patches: Mapping[str, list[Patch]]

    @property
    def bank(self) -> TermBank:
        return self.patcher.model


@dataclass(frozen=True)
class TwoCheckpoints:
    """An RL model with weights of its own, in `patcher`; `base_patches` are those the base had when the two met."""

    patcher: ModelPatcher
    base_patches: Mapping[str, list[Patch]]

    @property
    def model(self) -> BaseModel:
        return self.patcher.model


Relation = SharedWeights | TwoCheckpoints


def relate(model: ModelPatcher, rl_model: ModelPatcher) -> Relation | None:
    """How `rl_model` relates to its base `model`, or None if the two are identical.

    Raises `PairError`, saying what differs, if they are not a base and its RL-tuned version.
    """
    if rl_model.attachments.get(KEY) is not None:
        raise PairError(
            "rl_model already has RLG on it. Give the plain RL model, and stack a second RLG node on `model`."
        )
    if rl_model.model is model.model:
        _refuse_unshared(model, rl_model)
        bank = term_bank(model, rl_model)
        return None if bank is None else SharedWeights(bank, copied(model.patches))
    _refuse_strangers(model, rl_model)
    return TwoCheckpoints(rl_model.clone(), copied(model.patches))


def _refuse_unshared(model: ModelPatcher, rl_model: ModelPatcher) -> None:
    """Raises `PairError` if two clones differ in more than weight patches, which one copy of the model cannot do."""
    if model.injections.keys() != rl_model.injections.keys():
        names = ", ".join(sorted(model.injections.keys() ^ rl_model.injections.keys()))
        raise PairError(
            f"model and rl_model differ by injected modules ({names}), as a LoRA loaded in bypass mode injects them. "
            "Load the LoRA without bypass, or with Load RL Adapter."
        )
    ours, theirs = (patcher.get_model_object("model_sampling") for patcher in (model, rl_model))
    if ours is not theirs and sampling_facts(ours) != sampling_facts(theirs):
        raise PairError(
            f"model and rl_model share their weights but not their sampling: {sampling_facts(ours)} and "
            f"{sampling_facts(theirs)}. Put the ModelSampling node before both."
        )


def sampling_facts(model_sampling: nn.Module) -> tuple:
    """What in a `model_sampling` affects a prediction: its kinds and its scalar settings."""
    kinds = tuple(kind.__name__ for kind in type(model_sampling).__mro__[1:3])
    settings = sorted(
        (k, v) for k, v in vars(model_sampling).items() if isinstance(v, (int, float)) and k != "training"
    )
    return (*kinds, *settings)


def _refuse_strangers(model: ModelPatcher, rl_model: ModelPatcher) -> None:
    """Raises `PairError` unless both checkpoints share architecture, latent space and way of adding noise."""
    facts = {
        "architecture": lambda m: type(m.model).__name__,
        "latent format": lambda m: type(m.model.latent_format).__name__,
        "way of adding noise": lambda m: type(m.get_model_object("model_sampling")).noise_scaling.__qualname__,
        "weights": _weight_shapes,
    }
    for fact, of in facts.items():
        ours, theirs = of(model), of(rl_model)
        if ours != theirs:
            raise PairError(
                f"model and rl_model differ in {fact}: {_differing(ours, theirs)}. "
                "Expected one base and its RL-tuned version."
            )


def _weight_shapes(model: ModelPatcher) -> dict[str, tuple[int, ...]]:
    """The shapes of weights and biases, without the scales that a quantised checkpoint has beside them."""
    state = model.model.diffusion_model.state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not is_quantisation_key(name)}


def _differing(ours: Any, theirs: Any) -> str:
    """The first places where two facts differ, the base's first."""
    if not isinstance(ours, dict):
        return f"{ours} and {theirs}"
    names = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    shown = ", ".join(f"{name} {ours.get(name, 'absent')} and {theirs.get(name, 'absent')}" for name in names[:3])
    return f"{len(names)} tensors, first {shown}"
