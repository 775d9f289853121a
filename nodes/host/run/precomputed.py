"""Refuses what puts a prompt through layers of the network before sampling, and keeps what these make of it.

Nodes do it with the weights that are in memory when they are run, some networks with those in memory when sampling
begins: the base's. The RL model's are others.

What a node keeps is recognised by its width. It cannot be compared with what a layer makes of the prompt: the prompt is
an input of that node, which sampling does not see, and a layer that takes in more than it gives (2048 to 640 in SDXL)
could have made any tensor of that width. So a node that keeps tensors of its own which are as wide is refused too.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ....rlg_core.errors import RunError
from ....rlg_core.rows import BlockWatch
from ..compat import prepares_prompts
from ..models.patches import at_work, difference
from ..models.relation import Relation, SharedWeights
from .calls import callables, is_gone, mark
from .record import Record, record_of
from .remembered import contents, tensors

_held: dict[Hashable, set[int]] = {}
"""What functions held before their first run, by their mark: what they hold later, a run has left there."""


def refuse_precomputed(guider: Any, record: Record) -> None:
    """Raises `RunError` where a function inside the network holds what a layer that the RL model changes makes."""
    prompts, model = _prompt_widths(guider), guider.model_patcher.model
    for place, function in _functions(guider):
        widths = _held_before_runs(function)
        for name, width, layers in _makers(model.diffusion_model, prompts) if widths else ():
            if width in widths and any(changes(expert.relation, model, layers) for expert in record.experts):
                raise RunError(_reason(place.strip(), name, width))


class PreparedPrompts:
    """The layers of the network that have run in a run before the first call of the model."""

    def __init__(self, patcher: ModelPatcher):
        # As base and RL model met: what came later is on both.
        self.model, self.relations = patcher.model, [expert.relation for expert in record_of(patcher).experts]
        self.blocks = BlockWatch(self.model.diffusion_model) if prepares_prompts(self.model) else None
        self.watch, self.ran = ExitStack(), set()

    def begin(self) -> None:
        """Watches the network from here on. The host has loaded the model, and injected what nodes inject into it."""
        if self.blocks is not None:
            self.ran = self.watch.enter_context(self.blocks.watching())

    def require_same(self) -> None:
        """Raises `RunError`, at a call of the model, if the RL model changes layers that have run before the first."""
        self.watch.close()
        layers, self.ran = self._layers() if self.ran else set(), set()
        changed = [name for name in sorted(layers) if any(changes(r, self.model, {name}) for r in self.relations)]
        if changed:
            raise RunError(
                f"This network prepares its prompts before it samples, with layers that the RL model changes, first "
                f"{changed[0]}. ComfyUI does that once, with the base's weights, so the RL model would get the base's "
                "prompts. Use an RL model that leaves these layers as they are in the base."
            )

    def _layers(self) -> set[str]:
        """All layers with weights of their own in the blocks that ran."""
        blocks = [f"diffusion_model.{block}." for block, first in self.blocks.of_block.items() if first in self.ran]
        modules = self.model.diffusion_model.named_modules(prefix="diffusion_model")
        own = (name for name, module in modules if next(module.parameters(recurse=False), None) is not None)
        return {name for name in own if any(f"{name}.".startswith(block) for block in blocks)}


def _held_before_runs(function: Any) -> set[int]:
    """The widths of what may be keys, values or a prompt in a function, as it was when it was seen first."""
    marked = mark(function)
    if marked not in _held:
        for gone in [other for other in _held if is_gone(other)]:
            del _held[gone]
        _held[marked] = {held.shape[-1] for held in tensors(contents([function])) if _may_be_made(held)}
    return _held[marked]


def _may_be_made(held: Tensor) -> bool:
    """Whether a layer may have made a tensor. Masks, which are as wide as pictures, are never negative."""
    if held.ndim < 3 or not held.is_floating_point() or held.is_meta:
        return False
    return bool((held.float() < 0).any())


def _reason(place: str, layer: str, width: int) -> str:
    return (
        f"A node replaces a part of the network ({place}) and holds keys, values or a prompt {width} wide that layers "
        f"such as {layer} made before sampling began (Normalized Attention Guidance of sd-perturbed-attention and "
        "WanVideoNAG do so). The RL model changes these layers, so one of the two models would get the other's. Remove "
        "that node; ComfyUI's NAGuidance does the same while it samples."
    )


def _functions(guider: Any) -> Iterator[tuple[str, Any]]:
    """What other nodes have put in the place of parts of the network, each with its place."""
    yield from callables("", guider.model_options.get("transformer_options", {}).get("patches_replace", {}))
    for name, value in guider.model_patcher.object_patches.items():
        if name.startswith("diffusion_model.") and callable(value) and not isinstance(value, nn.Module):
            yield name, value


def _prompt_widths(guider: Any) -> set[int]:
    prompts = (cond.get("cross_attn") for conds in guider.conds.values() for cond in conds)
    return {prompt.shape[-1] for prompt in prompts if isinstance(prompt, Tensor)}


def changes(relation: Relation, model: BaseModel, layers: set[str]) -> bool:
    """Whether an RL model changes one of `layers`."""
    if isinstance(relation, SharedWeights):
        return not layers.isdisjoint(relation.bank.names)
    if any(_differ(model.get_submodule(name), relation.model.get_submodule(name)) for name in layers):
        return True
    base, rl = relation.base.patches, relation.patcher.patches  # not in the weights before the host has loaded them
    keys = [key for key in dict.fromkeys([*base, *rl]) if key.rsplit(".", 1)[0] in layers]
    return any(difference(at_work(base.get(key, [])), at_work(rl.get(key, []))) != ([], []) for key in keys)


def _differ(layer: nn.Module, other: nn.Module) -> bool:
    """Whether two layers have other weights; also where that cannot be seen."""
    pairs = list(zip(layer.parameters(), other.parameters()))
    are_plain = all(type(p) is type(q) is nn.Parameter for p, q in pairs)
    return not pairs or not are_plain or not all(torch.equal(p.float(), q.to(p.device).float()) for p, q in pairs)


def _makers(network: nn.Module, prompts: set[int]) -> Iterator[tuple[str, int, set[str]]]:
    """(name, width of the output, names of the layers) of the layers, and rows of layers, that a prompt fits into."""
    for name, module in network.named_modules(prefix="diffusion_model"):
        if type(module) is not nn.Sequential and not _is_linear(module):
            continue
        layers = [(inner, layer) for inner, layer in module.named_modules(prefix=name) if _is_linear(layer)]
        if layers and layers[0][1].in_features in prompts and layers[-1][1].out_features not in prompts:
            yield name, layers[-1][1].out_features, {inner for inner, _ in layers}


def _is_linear(module: nn.Module) -> bool:
    return hasattr(module, "in_features") and hasattr(module, "out_features")
