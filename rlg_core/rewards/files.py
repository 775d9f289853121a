"""Files of reward models: one folder per model, in the layout that its authors publish."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..downloads import DOWNLOADS, impostor
from ..errors import RLGError, shortened

LARGEST_CONFIG = 2**20
"""Bytes of a model's config. Real ones have a few thousand."""


def weights_file(folder: Path, names: Sequence[str]) -> Path:
    """The first of `names` that `folder` has. Raises `RLGError`, listing what is there, if it has none of them."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    raise RLGError(f"{folder}: expected a file named {' or '.join(names)}, found {', '.join(found) or 'nothing'}.")


def check_downloaded(folder: Path) -> None:
    """Raises `RLGError` if a file in `folder` is what a failed download leaves, such as a Git LFS pointer."""
    for path in sorted(folder.iterdir()):
        other = impostor(path, DOWNLOADS) if path.is_file() else None
        if other is not None:
            raise RLGError(f"{path}: {other}")


def read_config(path: Path) -> dict[str, Any]:
    """A config of at most `LARGEST_CONFIG` bytes. Raises `RLGError` if it is larger, or no JSON object."""
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise RLGError(f"{path}: expected a config of at most {LARGEST_CONFIG} bytes.")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, RLGError):
            raise
        raise RLGError(f"{path}: not a config in JSON ({shortened(str(error))}).") from error
    if not isinstance(config, dict):
        raise RLGError(f"{path}: expected a JSON object, got {type(config).__name__}.")
    return config


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file; unwraps a `state_dict` inside. Runs no code from the file."""
    if path.suffix == ".safetensors":
        return load_file(path)
    content = torch.load(path, map_location="cpu", weights_only=True)
    return content.get("state_dict", content)


def below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, under their names without it."""
    return {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}


def fill(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Loads `weights` into `module`. Raises `RLGError`, naming the first ones, if keys or shapes do not match."""
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = sorted(name for name in expected.keys() | given.keys() if expected.get(name) != given.get(name))
    if wrong:
        first = [f"{n} (expected {expected.get(n, 'no such key')}, found {given.get(n, 'none')})" for n in wrong[:3]]
        raise RLGError(f"{path}: {len(wrong)} tensors do not fit the model: {', '.join(first)}.")
    module.load_state_dict(weights)
