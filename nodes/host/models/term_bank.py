"""The terms of an expert as a model that the host manages, built once per RL model and kept while it is in use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ....rlg_core.algebra import Placed
from ....rlg_core.errors import PairError
from ....rlg_core.rows import module_terms
from ..compat import compute_dtype, without_injections
from .patches import changed_parameters

KEPT = 2
"""Banks kept per RL model: switching back and forth between two settings of the base builds nothing anew."""


class TermBank(nn.Module):
    """The terms of one expert, by the name of the module they belong to, in the dtype its model computes in.

    A torch module, so that the host loads, counts and offloads it like any other model.
    """

    def __init__(self, root: nn.Module, changes: Mapping[str, list[Placed]], dtype: torch.dtype):
        super().__init__()
        self.names = tuple(changes)
        self.terms = nn.ModuleList(module_terms(root.get_submodule(name), changes[name], dtype) for name in self.names)
        for name, parameter in self.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                module = self.names[int(name.split(".")[1])]
                raise PairError(f"{module}: the RL model's adapter has NaN or infinite values, expected finite ones.")

    def by_name(self) -> dict[str, nn.Module]:
        return dict(zip(self.names, self.terms))


_banks: WeakKeyDictionary[ModelPatcher, OrderedDict[Hashable, ModelPatcher | None]] = WeakKeyDictionary()
"""Banks built so far, by RL model and the base's patches and dtype, the most recently used last."""


def term_bank(model: ModelPatcher, rl_model: ModelPatcher) -> ModelPatcher | None:
    """A patcher of the `TermBank` that turns `model` into its clone `rl_model`, or None if the two are identical.

    Raises `PairError` if the host could not apply the patches of either.
    """
    known, base = _banks.setdefault(rl_model, OrderedDict()), (model.patches_uuid, compute_dtype(model))
    if base not in known:
        known[base] = _built(model, rl_model)
    known.move_to_end(base)
    while len(known) > KEPT:
        known.popitem(last=False)
    return known[base]


def _built(model: ModelPatcher, rl_model: ModelPatcher) -> ModelPatcher | None:
    with without_injections(model.model):
        changes = changed_parameters(model, rl_model)
        if not changes:
            return None
        bank = TermBank(model.model, changes, compute_dtype(model))
    offload_device = comfy.model_management.unet_offload_device()
    return BankPatcher(bank, load_device=model.load_device, offload_device=offload_device)


class BankPatcher(ModelPatcher):
    """The patcher of a `TermBank`."""

    def deepclone_multigpu(self, *args: Any, **kwargs: Any) -> ModelPatcher:
        """What the host's nodes for several devices ask for (since 0.30). Raises `RuntimeError`, as theirs do."""
        raise RuntimeError(
            "RLG: what the RL model changes cannot be put on other devices. Remove the MultiGPU node; put Select Model "
            "Device before the RLG node. On rl_model alone, it has base and RL model run on a device each."
        )
