"""Puts an adapter on a clone of a host model as patches, and says what stock loading would have made of it."""

from __future__ import annotations

from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.utils
from comfy.model_patcher import ModelPatcher

from ....rlg_core.errors import AdapterError
from ....rlg_core.formats import Adapter
from ....rlg_core.names import Match, NameMap, describe, match
from ..compat import WEIGHT_NAMES, refuse_opaque_layers, unpatched_weight, weight_shape, weight_shapes
from .stock import as_patch, stock_scale

PREFIX = "diffusion_model."
SOURCE = "rlg_adapter_header"
"""The attachment in which a MODEL keeps the header entries of its adapter's file, for saving it again."""

SIZES = 8
"""Number of weights on which the size of the change is measured."""


def name_map(model: ModelPatcher) -> NameMap:
    """The names by which adapter files may address `model`'s weights."""
    shapes = {key: shape for key, shape in weight_shapes(model.model).items() if key.startswith(PREFIX)}
    config = model.model.model_config.unet_config
    if len(set(config.get("num_res_blocks", ()))) > 1:  # the host counts blocks as if all levels had as many
        return NameMap(shapes, PREFIX, {}, WEIGHT_NAMES)
    host_names = comfy.lora.model_lora_keys_unet(model.model, {})
    return NameMap(shapes, PREFIX, host_names, WEIGHT_NAMES, comfy.utils.unet_to_diffusers(config))


def with_patches(model: ModelPatcher, adapter: Adapter, matches: list[Match], strength: float) -> ModelPatcher:
    """A clone of `model` with the whole adapter on it as patches."""
    clone = model.clone()
    clone.set_attachments(SOURCE, dict(adapter.file.metadata))
    patches = {_key(found): as_patch(found.term) for found in matches}
    placed = clone.add_patches(patches, strength)
    if len(placed) != len(patches):
        missing = [key for key in patches if key not in placed]
        raise AdapterError(
            f"{adapter.file.path}: ComfyUI took {len(placed)} of {len(patches)} changes and left out {missing[:3]}."
        )
    return clone


def _key(found: Match) -> Any:
    """The key of a change in the host's dictionaries of patches: a weight, or some rows of it."""
    return found.target.key if found.target.cut is None else (found.target.key, (0, *found.target.cut))


def stock_scales(model: ModelPatcher, adapter: Adapter, strength: float) -> dict[Any, float | str | None]:
    """The scale at which the stock LoRA loader would apply the file, for each weight (and rows) that it finds.

    None stands for a change without a scale, `OTHERWISE` for one that it computes otherwise.
    """
    tensors = comfy.lora_convert.convert_lora(dict(adapter.file.tensors))
    patches = comfy.lora.load_lora(tensors, comfy.lora.model_lora_keys_unet(model.model, {}), log_missing=False)
    return {_place(key): stock_scale(patch, strength) for key, patch in patches.items()}


def _place(key: Any) -> tuple[str, tuple[int, int] | None]:
    key, offset, *_ = key if isinstance(key, tuple) else (key, None)
    return key, None if offset is None else tuple(offset[1:])


def relative_size(model: ModelPatcher, found: Match) -> float:
    """`|dW| / |W|` (Frobenius norms) of one change at strength 1."""
    weight = unpatched_weight(model, found.target.key)
    if found.target.cut is not None:
        weight = weight.narrow(0, *found.target.cut)
    change = found.term.delta(weight)
    return float(change.norm().cpu() / weight.norm().cpu().clamp(min=1e-12))


def load(model: ModelPatcher, adapter: Adapter, strength: float) -> tuple[ModelPatcher, str]:
    """A clone of `model` with `adapter` on it at `strength`, and the report.

    Raises `AdapterError` unless the whole adapter fits the model, and `WeightError` if it changes weights that cannot
    be read.
    """
    refuse_opaque_layers(model)
    names = name_map(model)
    matches = match(adapter, names)
    for found in matches:
        weight_shape(model, found.target.key)
    clone = with_patches(model, adapter, matches, strength)
    weights = [found for found in matches if found.change.parameter == "weight"]
    sizes = [relative_size(model, found) for found in weights[:: max(1, len(weights) // SIZES)][:SIZES]]
    return clone, describe(adapter, matches, names, stock_scales(model, adapter, strength), sizes, strength)
