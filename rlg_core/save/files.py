"""Writes adapter files to disk: complete under their final name, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ..errors import AdapterError


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, whole or not at all. Raises `AdapterError` if `path` exists."""
    if path.exists():
        raise AdapterError(f"{path}: there is a file of that name already; it is not overwritten.")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        save_file(_separate(tensors), unfinished, {"format": "pt", **metadata})
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each with memory of its own as the format demands; those that have it are not copied."""
    taken: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        storage = own.untyped_storage()
        separate[name] = own if storage.nbytes() == own.nbytes and storage.data_ptr() not in taken else own.clone()
        taken.add(storage.data_ptr())
    return separate


def write_peft(
    folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, object], metadata: Mapping[str, str]
) -> None:
    """Writes a PEFT adapter folder, whole or not at all. Raises `AdapterError` if `folder` exists."""
    if folder.exists():
        raise AdapterError(f"{folder}: there is a folder of that name already; it is not overwritten.")
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    weights, written = unfinished / "adapter_model.safetensors", unfinished / "adapter_config.json"
    try:
        write(weights, tensors, metadata)
        written.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        unfinished.rename(folder)
    finally:
        if unfinished.exists():
            weights.unlink(missing_ok=True)
            written.unlink(missing_ok=True)
            unfinished.rmdir()
