"""How an RL model relates to its base: one copy of the weights with terms beside it, or two checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ....rlg_core.errors import PairError
from ..compat import Injections, injected_adapters, refuse_opaque_layers, weight_shapes, without_injections
from .patches import Patch, at_work, copied, difference
from .stock import tensors_in
from .term_bank import TermBank, term_bank

KEY = "rlg"
"""The name under which a MODEL keeps what RLG nodes have put on it."""


@dataclass(frozen=True)
class Met:
    """What was on the base when it met its RL model, to tell it from what later nodes put there."""

    patches: Mapping[str, list[Patch]]
    objects: Mapping[str, Any]
    injections: Injections

    @classmethod
    def of(cls, model: ModelPatcher) -> Met:
        return cls(copied(model.patches), dict(model.object_patches), dict(model.injections))


@dataclass(frozen=True)
class SharedWeights:
    """An RL model that shares every weight with its base; `patcher` holds the terms that make the difference.

    `rl_patches` are the weight patches of the RL model, from which the terms were made.
    """

    patcher: ModelPatcher
    base: Met
    rl_patches: Mapping[str, list[Patch]]

    @property
    def bank(self) -> TermBank:
        return self.patcher.model


@dataclass(frozen=True)
class TwoCheckpoints:
    """An RL model with weights of its own, in `patcher`."""

    patcher: ModelPatcher
    base: Met

    @property
    def model(self) -> BaseModel:
        return self.patcher.model

    def __deepcopy__(self, memo: dict[int, Any]) -> TwoCheckpoints:
        """Raises `PairError`: who copies the weights of a MODEL changes those of the base, and of the base alone."""
        raise PairError(
            "A node after RLG copies the base with its weights to change them in memory (CheckpointPerturbWeights of "
            "KJNodes does so), and the RL checkpoint would go without. Put that node before both models, or use an RL "
            "adapter (Load RL Adapter) in place of the RL checkpoint."
        )


Relation = SharedWeights | TwoCheckpoints


def relate(model: ModelPatcher, rl_model: ModelPatcher) -> Relation | None:
    """How `rl_model` relates to its base `model`, or None if the two are identical.

    Raises `PairError`, saying what differs, if they are not a base and its RL-tuned version.
    """
    refuse_guided(rl_model)
    if rl_model.model is model.model:
        _refuse_unshared(model, rl_model)
        bank = term_bank(model, rl_model)
        return None if bank is None else SharedWeights(bank, Met.of(model), copied(rl_model.patches))
    _refuse_strangers(model, rl_model)
    return TwoCheckpoints(rl_model.clone(), Met.of(model))


def refuse_guided(rl_model: ModelPatcher) -> None:
    """Raises `PairError` if `rl_model` is a base with RLG on it: its weights are the base's."""
    if rl_model.attachments.get(KEY) is not None:
        raise PairError(
            "rl_model already has RLG on it. Give the plain RL model, and stack a second RLG node on `model`."
        )


def _refuse_unshared(model: ModelPatcher, rl_model: ModelPatcher) -> None:
    """Raises `PairError` if two clones differ in more than weight patches, which one copy of the model cannot do."""
    differing = differing_injections(model.injections, rl_model.injections)
    if differing:
        names = ", ".join(differing)
        raise PairError(
            f"model and rl_model differ by injected modules ({names}), as a LoRA loaded in bypass mode injects them. "
            "Load the LoRA without bypass, or with Load RL Adapter."
        )
    for name, facts_of in PREDICTING.items():
        ours, theirs = (patcher.get_model_object(name) for patcher in (model, rl_model))
        if ours is not theirs:
            differing = _differing_facts(facts_of(ours), facts_of(theirs))
            if differing:
                raise PairError(
                    f"model and rl_model share their weights but not their {name}: {differing}. Put the node that "
                    "changes it before both, so that base and RL model predict alike."
                )


def differing_injections(ours: Injections, theirs: Injections) -> list[str]:
    """The names of injected modules that only one of two models has, or that hold other LoRAs."""
    one_sided = ours.keys() ^ theirs.keys()
    return sorted(one_sided | {name for name in ours.keys() - one_sided if not _inject_alike(ours[name], theirs[name])})


def _inject_alike(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    left, right = injected_adapters(ours), injected_adapters(theirs)
    return left.keys() == right.keys() and all(
        len(left[name]) == len(right[name]) and all(map(_same_adapter, left[name], right[name])) for name in left
    )


def _same_adapter(ours: tuple[Any, float], theirs: tuple[Any, float]) -> bool:
    """Whether two injected LoRAs do the same. The host casts and moves one that has been injected, in its place."""
    (adapter, strength), (other, others_strength) = ours, theirs
    if type(adapter) is not type(other) or strength != others_strength:
        return False
    left, right = tensors_in(adapter), tensors_in(other)
    return len(left) == len(right) and all(map(_same_value, left, right))


def _same_value(ours: Any, theirs: Any) -> bool:
    if not isinstance(ours, Tensor) or not isinstance(theirs, Tensor):
        return type(ours) is type(theirs) and ours == theirs
    left, right = ours.detach().cpu(), theirs.detach().cpu()
    narrower = min(left.dtype, right.dtype, key=lambda dtype: dtype.itemsize)
    return left.shape == right.shape and torch.equal(left.to(narrower), right.to(narrower))


def sampling_facts(model_sampling: nn.Module) -> dict[str, Any]:
    """What of a `model_sampling` makes a prediction: its kinds, its settings and its tables."""
    # The class itself is made anew by each node, of classes that tell what it does.
    kinds = [kind.__qualname__ for kind in type(model_sampling).__mro__[1:] if kind not in nn.Module.__mro__]
    settings = {k: v for k, v in vars(model_sampling).items() if isinstance(v, (int, float, str)) and k != "training"}
    return {"kind": tuple(kinds), **settings, **dict(model_sampling.named_buffers())}


def _latent_facts(latent_format: Any) -> dict[str, Any]:
    return {"kind": type(latent_format).__qualname__, **vars(latent_format)}


PREDICTING: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "model_sampling": sampling_facts,
    "latent_format": _latent_facts,
}
"""The objects of a model that make its prediction what it is, and what of each must agree."""


def _differing_facts(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    names = [name for name in dict.fromkeys([*ours, *theirs]) if not _same_fact(ours.get(name), theirs.get(name))]
    return ", ".join(f"{name} {_shown(ours.get(name))} and {_shown(theirs.get(name))}" for name in names[:3])


def _same_fact(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):  # the host may hold one of two models on the device
        return a.shape == b.shape and bool((a.cpu() == b.cpu()).all())
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b


def _shown(fact: Any) -> str:
    return f"a table of {tuple(fact.shape)}" if isinstance(fact, Tensor) else str(fact)


def refuse_two_on_one_checkpoint(first: TwoCheckpoints, second: TwoCheckpoints) -> None:
    """Raises `PairError` for two RL models on the same weights that differ: the host holds those of one in memory."""
    ours, theirs = first.patcher, second.patcher
    if ours.model is not theirs.model:
        return
    keys = dict.fromkeys([*ours.patches, *theirs.patches])
    has_other_patches = ours.patches_uuid != theirs.patches_uuid and any(
        difference(at_work(ours.patches.get(key, [])), at_work(theirs.patches.get(key, []))) != ([], []) for key in keys
    )
    has_other_objects = any(
        _differing_facts(facts_of(ours.get_model_object(name)), facts_of(theirs.get_model_object(name)))
        for name, facts_of in PREDICTING.items()
    )
    if has_other_patches or has_other_objects or differing_injections(ours.injections, theirs.injections):
        raise PairError(
            "Two RL models are one checkpoint with different nodes on it (a LoRA on one of them, say), and ComfyUI "
            "holds its weights in memory with the nodes of one of the two. Load the checkpoint once more for one."
        )


def _refuse_strangers(model: ModelPatcher, rl_model: ModelPatcher) -> None:
    """Raises `PairError` unless both checkpoints share architecture, latent space and way of adding noise."""
    facts = {
        "architecture": lambda m: type(m.model).__name__,
        "latent format": lambda m: type(m.model.latent_format).__name__,
        "way of adding noise": lambda m: type(m.get_model_object("model_sampling")).noise_scaling.__qualname__,
        "weights": _shapes,
    }
    for fact, of in facts.items():
        ours, theirs = of(model), of(rl_model)
        if ours != theirs:
            for patcher in (model, rl_model):
                refuse_opaque_layers(patcher)
            raise PairError(
                f"model and rl_model differ in {fact}: {_differing(ours, theirs)}. "
                "Expected one base and its RL-tuned version."
            )


def _shapes(model: ModelPatcher) -> dict[str, Any]:
    with without_injections(model.model):
        return weight_shapes(model.model.diffusion_model)


def _differing(ours: Any, theirs: Any) -> str:
    """The first places where two facts differ, the base's first."""
    if not isinstance(ours, dict):
        return f"{ours} and {theirs}"
    names = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    shown = ", ".join(f"{name} {ours.get(name, 'absent')} and {theirs.get(name, 'absent')}" for name in names[:3])
    return f"{len(names)} tensors, first {shown}"
