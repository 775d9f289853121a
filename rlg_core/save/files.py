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
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            unfinished,
            {"format": "pt", **metadata},
        )
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


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
