"""Writes the difference of two clones of one model as an adapter file below the host's output folder."""

from __future__ import annotations

from pathlib import Path

from comfy.model_patcher import ModelPatcher

from ....rlg_core.algebra import Placed
from ....rlg_core.errors import PairError, require_one_of
from ....rlg_core.save import comfyui_tensors, peft_adapter, write, write_peft
from ..compat import without_injections
from .adapters import PREFIX, SOURCE, name_map
from .files import new_file
from .patches import changed_parameters
from .relation import refuse_guided

FORMATS = ("comfyui", "peft")

DROPPED_METADATA = frozenset(
    {"format", "lora_adapter_metadata", "modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash"}
)
"""Header entries that would be wrong in the new file, whose keys, scales and bytes differ."""


def save_adapter(model: ModelPatcher, rl_model: ModelPatcher, filename_prefix: str, file_format: str) -> Path:
    """Writes what `rl_model` adds to `model`. Returns the new file, or the new PEFT folder.

    Raises `PairError` if the two are not clones of one model, or are identical, or RLG is on `rl_model`.
    """
    require_one_of("format", file_format, FORMATS)
    refuse_guided(rl_model)
    if model.model is not rl_model.model:
        raise PairError(
            "rl_model is another checkpoint than model, so there is no adapter to save. RLG Extract Adapter makes one."
        )
    changes = _changes(model, rl_model)
    if not changes:
        raise PairError("model and rl_model are identical: there is no adapter to save.")
    source = rl_model.attachments.get(SOURCE, {})
    metadata = {name: text for name, text in source.items() if name not in DROPPED_METADATA}
    if file_format == "peft":
        path = new_file(filename_prefix, "")
        tensors, config = peft_adapter(changes, name_map(model))
        write_peft(path, tensors, config, metadata)
        return path
    path = new_file(filename_prefix, ".safetensors")
    shapes = {PREFIX + key: shape for key, shape in name_map(model).shapes.items()}
    write(path, comfyui_tensors(changes, shapes), metadata)
    return path


def _changes(model: ModelPatcher, rl_model: ModelPatcher) -> dict[str, list[Placed]]:
    """What `rl_model` changes in `model`, by the key of the weight."""
    with without_injections(model.model):
        by_module = changed_parameters(model, rl_model)
    foreign = [module for module in by_module if not module.startswith(PREFIX)]
    if foreign:
        raise PairError(f"{foreign[0]}: an adapter file holds changes of the diffusion model only.")
    changes: dict[str, list[Placed]] = {}
    for module, placed in by_module.items():
        for change in placed:
            changes.setdefault(f"{module}.{change.parameter}", []).append(change)
    return changes
