"""An adapter put on a clone of a host model as host patches, and what stock loading would have made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import LoHaAdapter, LoKrAdapter, LoRAAdapter, WeightAdapterBase
from torch import Tensor

from ...rlg_core.errors import AdapterError
from ...rlg_core.formats import Adapter
from ...rlg_core.names import Match, NameMap, describe, match
from ...rlg_core.terms import Decomposed, Delta, Hadamard, Kronecker, LowRank, Replace
from .patches import original_weight

PREFIX = "diffusion_model."
SOURCE = "rlg_adapter_header"
"""Where a MODEL keeps the header texts of the file its adapter came from, for saving it again."""
SIZES = 8
"""How many weights the size of the change is measured on."""


class TermAdapter(WeightAdapterBase):
    """A term that depends on the weight it is applied to, as a host patch: `W + strength * delta_weight(W)`.

    The host may rebuild it as `type(self)(loaded_keys, weights)` with the tensors in `weights` moved.
    """

    def __init__(self, loaded_keys: set[str], weights: tuple[Any, ...]):
        self.loaded_keys = loaded_keys
        self.weights = weights

    def calculate_weight(
        self,
        weight,
        key,
        strength,
        strength_model,
        offset,
        function,
        intermediate_dtype=torch.float32,
        original_weight=None,
    ):
        # In place: where the patch has an offset, `weight` is a view of the rows it concerns.
        weights = [value.to(weight.device) if isinstance(value, Tensor) else value for value in self.weights]
        weight += function((strength * self.term(*weights).delta_weight(weight)).to(weight.dtype))
        return weight

    @staticmethod
    def term(*weights: Any) -> Decomposed | Replace:
        raise NotImplementedError


class ReplaceAdapter(TermAdapter):
    name = "rlg_replace"

    @staticmethod
    def term(value: Tensor) -> Replace:
        return Replace(value)


class DecomposedAdapter(TermAdapter):
    name = "rlg_dora"

    @staticmethod
    def term(up: Tensor, down: Tensor, scale: float, mid: Tensor | None, magnitude: Tensor, axis: int) -> Decomposed:
        return Decomposed(LowRank(up, down, scale, mid), magnitude, axis)


class DecomposedDeltaAdapter(TermAdapter):
    """DoRA around LoHa or LoKr."""

    name = "rlg_dora_delta"

    @staticmethod
    def term(delta: Tensor, magnitude: Tensor, axis: int) -> Decomposed:
        return Decomposed(Delta(delta), magnitude, axis)


def _low_rank(term: LowRank) -> Any:
    term = term.without_mid()
    return LoRAAdapter(set(), (term.up, term.down, term.scale * term.rank, None, None, None))


def _hadamard(term: Hadamard) -> Any:
    left, right = term.left.without_mid(), term.right.without_mid()
    scale = term.scale * left.scale * right.scale
    factors = (left.up, left.down.flatten(1), scale * left.rank, right.up, right.down.flatten(1), None, None, None)
    return LoHaAdapter(set(), factors)


def _kronecker(term: Kronecker) -> Any:
    if term.right.ndim not in (2, 4):  # the host knows linear layers and 2D convolutions
        return _delta(Delta(term.delta_weight()))
    left = term.left if term.scale == 1.0 else term.left.float() * term.scale
    return LoKrAdapter(set(), (left, term.right, None, None, None, None, None, None, None))


def _delta(term: Delta) -> Any:
    return ("diff", (term.weight if term.scale == 1.0 else term.weight.float() * term.scale,))


def _decomposed(term: Decomposed) -> Any:
    inner = term.inner
    if isinstance(inner, LowRank):
        return DecomposedAdapter(set(), (inner.up, inner.down, inner.scale, inner.mid, term.magnitude, term.axis))
    return DecomposedDeltaAdapter(set(), (inner.delta_weight(), term.magnitude, term.axis))


def _replace(term: Replace) -> Any:
    return ReplaceAdapter(set(), (term.value,))


PATCHES: Mapping[type, Callable[[Any], Any]] = {
    LowRank: _low_rank,
    Hadamard: _hadamard,
    Kronecker: _kronecker,
    Delta: _delta,
    Decomposed: _decomposed,
    Replace: _replace,
}
"""How each kind of term is a host patch: stock ones where the host has the same arithmetic."""


def name_map(model: ModelPatcher) -> NameMap:
    """The names by which adapter files may address `model`'s weights."""
    # not state_dict(): quantised layers put entries into it that are no parameters
    tensors = chain(model.model.named_parameters(), model.model.named_buffers())
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors if key.startswith(PREFIX)}
    return NameMap(shapes, PREFIX, comfy.lora.model_lora_keys_unet(model.model, {}))


def with_patches(model: ModelPatcher, adapter: Adapter, matches: list[Match], strength: float) -> ModelPatcher:
    """A clone of `model` with the whole adapter on it as patches."""
    clone = model.clone()
    clone.set_attachments(SOURCE, dict(adapter.file.metadata))
    for layer in _layers(matches):
        placed = clone.add_patches(layer, strength)
        if len(placed) != len(layer):
            missing = [key for key in layer if key not in placed]
            raise AdapterError(
                f"{adapter.file.path}: the host took {len(placed)} of {len(layer)} changes, not {missing[:3]}."
            )
    return clone


def _layers(matches: Iterable[Match]) -> list[dict[Any, Any]]:
    """The host's patch dictionaries: one, or more where several changes concern the same rows of a weight."""
    layers: list[dict[Any, Any]] = []
    for found in matches:
        key = found.target.key if found.target.rows is None else (found.target.key, (0, *found.target.rows))
        layer = next((layer for layer in layers if key not in layer), None)
        if layer is None:
            layers.append(layer := {})
        layer[key] = PATCHES[type(found.term)](found.term)
    return layers


def stock_scales(model: ModelPatcher, adapter: Adapter) -> dict[Any, float | None]:
    """What the stock LoRA loader would make of the file: for each weight (and rows) it finds, the scale it would use.

    None stands for a change that is not scaled.
    """
    tensors = comfy.lora_convert.convert_lora(dict(adapter.file.tensors))
    patches = comfy.lora.load_lora(tensors, comfy.lora.model_lora_keys_unet(model.model, {}), log_missing=False)
    return {_place(key): _stock_scale(patch) for key, patch in patches.items()}


def _place(key: Any) -> tuple[str, tuple[int, int] | None]:
    key, offset, *_ = key if isinstance(key, tuple) else (key, None)
    return key, None if offset is None else tuple(offset[1:])


def _stock_scale(patch: Any) -> float | None:
    if not isinstance(patch, (LoRAAdapter, LoHaAdapter, LoKrAdapter)):
        return None
    alpha, factors = patch.weights[2], patch.weights[1:2]
    if isinstance(patch, LoKrAdapter):
        factors = [factor for factor in (patch.weights[6], patch.weights[4]) if factor is not None]
    return alpha / factors[0].shape[0] if alpha is not None and len(factors) > 0 else 1.0


def relative_size(model: ModelPatcher, found: Match) -> float:
    """`|dW| / |W|` (Frobenius) of one change at strength 1."""
    weight = original_weight(model, found.target.key).detach()
    if found.target.rows is not None:
        weight = weight.narrow(0, *found.target.rows)
    term = found.term
    change = term.delta_weight(weight) if isinstance(term, (Decomposed, Replace)) else term.delta_weight()
    return float(change.norm() / weight.norm().cpu().clamp(min=1e-12))


def load(model: ModelPatcher, adapter: Adapter, strength: float) -> tuple[ModelPatcher, str]:
    """`model` with `adapter` on it, and the report on it."""
    names = name_map(model)
    matches = match(adapter, names)
    clone = with_patches(model, adapter, matches, strength)
    weights = [found for found in matches if found.change.parameter == "weight"]
    sizes = [relative_size(model, found) for found in weights[:: max(1, len(weights) // SIZES)][:SIZES]]
    return clone, describe(adapter, matches, names, stock_scales(model, adapter), sizes, strength)
