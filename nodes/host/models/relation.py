"""A base and an RL-tuned version of it: one model with terms beside it, or two checkpoints."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import comfy.model_management
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import nn

from ...rlg_core.errors import PairError
from ...rlg_core.rows import Placed, module_terms
from .patches import Patch, changed_parameters, depends_on_weight, difference

QUANTISATION = (
    "scaled_fp8",
    "scale_weight",
    "scale_input",
    "weight_scale",
    "weight_scale_2",
    "input_scale",
    "comfy_quant",
)
"""What the hosts keep beside quantised weights."""

UNUSED = ("norm_final.weight", "y_embedder.y_embedding")
"""Weights that a host makes and never uses (Z-Image and Lumina on 0.3.75, PixArt): files come without them."""


class TermBank(nn.Module):
    """The terms of one expert, by name of the module they belong to, in the dtype its model computes in.

    A torch module, so that the host loads, counts and offloads it like any other model.
    """

    def __init__(self, root: nn.Module, changes: Mapping[str, list[Placed]], dtype: torch.dtype):
        super().__init__()
        self.names = tuple(changes)
        self.terms = nn.ModuleList(module_terms(root.get_submodule(name), changes[name], dtype) for name in self.names)
        self.uid = uuid.uuid4()
        for name, parameter in self.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                module = self.names[int(name.split(".")[1])]
                raise PairError(f"{module}: the RL model's adapter has NaN or infinite values, expected finite ones.")

    def by_name(self) -> dict[str, nn.Module]:
        return dict(zip(self.names, self.terms))


@dataclass(frozen=True)
class SharedWeights:
    """An RL model that shares every weight with its base: `patcher` holds the terms that make the difference to the base
    under `base_patches`."""

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


_shared: WeakKeyDictionary[ModelPatcher, dict[uuid.UUID, SharedWeights | None]] = WeakKeyDictionary()
"""Terms built so far, by RL model and the base's patches, so that turning the scale builds and loads nothing."""


def pair(model: ModelPatcher, rl_model: ModelPatcher) -> SharedWeights | TwoCheckpoints | None:
    """How `rl_model` relates to its base `model`; None where the two are identical.

    Raises `PairError` where they are not a base and an RL-tuned version of it, saying what differs.
    """
    if rl_model.attachments.get("rlg") is not None:
        raise PairError(
            "rl_model already has RLG on it. Give the plain RL model, and stack a second RLG node on `model`."
        )
    if rl_model.model is model.model:
        _refuse_unshared(model, rl_model)
        known = _shared.setdefault(rl_model, {})
        if model.patches_uuid not in known:
            known[model.patches_uuid] = _shared_weights(model, rl_model)
        return known[model.patches_uuid]
    _refuse_strangers(model, rl_model)
    return TwoCheckpoints(rl_model.clone(), copied_patches(model))


def copied_patches(model: ModelPatcher) -> dict[str, list[Patch]]:
    return {key: list(patches) for key, patches in model.patches.items()}


def compute_dtype(model: BaseModel) -> torch.dtype:
    """The dtype of activations: the host casts stored weights (fp8 say) to it."""
    return model.manual_cast_dtype or model.get_dtype()


def _shared_weights(model: ModelPatcher, rl_model: ModelPatcher) -> SharedWeights | None:
    changes = changed_parameters(model, rl_model)
    if not changes:
        return None
    bank = TermBank(model.model, changes, compute_dtype(model.model))
    offload_device = comfy.model_management.unet_offload_device()
    patcher = ModelPatcher(bank, load_device=model.load_device, offload_device=offload_device)
    return SharedWeights(patcher, copied_patches(model))


def refuse_rescaled_weights(model: ModelPatcher, source: SharedWeights) -> None:
    """Patches put on `model` after it met its RL model reach both where they add to weights that both share.

    Raises `PairError` for a merge, a DoRA and the like on a weight that has terms: those are for the weight as it was.
    """
    names = set(source.bank.names)
    for key in (key for key in model.patches if key.rsplit(".", 1)[0] in names):
        removed, added = difference(source.base_patches.get(key, []), model.patches[key])
        if removed or any(depends_on_weight(patch) for patch in added):
            raise PairError(
                f"{key} is merged or replaced after the RLG node (Model Merge, DoRA, ...), which would leave the RL model's "
                "difference as it was. Do it before the model goes into the RLG node and into the RL model's loader."
            )


def _refuse_unshared(model: ModelPatcher, rl_model: ModelPatcher) -> None:
    """What makes two clones differ besides weight patches, and that running one model twice could not honour."""
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
    """What of a `model_sampling` changes a prediction: its kinds and its scalar settings."""
    kinds = tuple(kind.__name__ for kind in type(model_sampling).__mro__[1:3])
    settings = sorted(
        (k, v) for k, v in vars(model_sampling).items() if isinstance(v, (int, float)) and k != "training"
    )
    return (*kinds, *settings)


def _refuse_strangers(model: ModelPatcher, rl_model: ModelPatcher) -> None:
    """Two checkpoints pair up only with one architecture, one latent space and one way of adding noise."""
    facts = {
        "architecture": lambda m: type(m.model).__name__,
        "latent format": lambda m: type(m.model.latent_format).__name__,
        "way of adding noise": lambda m: _noise_scaling(m).__qualname__,
        "weights": _weight_shapes,
    }
    for fact, of in facts.items():
        ours, theirs = of(model), of(rl_model)
        if ours != theirs:
            raise PairError(
                f"model and rl_model differ in {fact}: {_differing(ours, theirs)}. Expected one base and its RL-tuned version."
            )


def _weight_shapes(model: ModelPatcher) -> dict[str, tuple[int, ...]]:
    """Of weights and biases; one of two checkpoints may be quantised and have scales beside them."""
    state = model.model.diffusion_model.state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith(QUANTISATION)}


def _noise_scaling(model: ModelPatcher):
    return type(model.get_model_object("model_sampling")).noise_scaling


def _differing(ours, theirs) -> str:
    """The first places where two facts differ, base first."""
    if not isinstance(ours, dict):
        return f"{ours} and {theirs}"
    names = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    shown = ", ".join(f"{name} {ours.get(name, 'absent')} and {theirs.get(name, 'absent')}" for name in names[:3])
    return f"{len(names)} tensors, first {shown}"
