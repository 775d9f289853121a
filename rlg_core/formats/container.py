"""Opens safetensors files, memory-mapped. Every defect is an `AdapterError` that names the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import AdapterError

SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one file, as views of its memory map, and the text entries of its header."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def open_tensors(path: Path) -> TensorFile:
    """Maps `path` into memory; the values of its tensors are not read yet.

    Raises `AdapterError` for a pickle or any other file that is not safetensors, and for a corrupt or truncated one.
    """
    if path.suffix.lower() in PICKLES:
        raise AdapterError(
            f"{path}: {path.suffix} files are pickles, which can run code when opened, so they are refused. "
            "Convert it to .safetensors first: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)."
        )
    if path.suffix.lower() not in SAFETENSORS:
        raise AdapterError(f"{path}: expected a .safetensors file, got {path.suffix or 'a name without an extension'}.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise AdapterError(f"{path}: there is no such file.") from error
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        raise AdapterError(f"{path}: not a whole safetensors file ({error}). Download it or save it again.") from error
    if not tensors:
        raise AdapterError(f"{path}: the file holds no tensors.")
    return TensorFile(path, tensors, metadata)


def check_values(path: Path, name: str, tensor: Tensor) -> None:
    """Raises `AdapterError` unless `tensor` holds real, finite, floating-point values."""
    if not tensor.dtype.is_floating_point:
        raise AdapterError(f"{path}: {name} has dtype {tensor.dtype}, expected floating-point values.")
    # One pass at memory speed: the sum is finite unless a value is not, or unless it overflows. Only then are the
    # values themselves looked at.
    wide = tensor if tensor.dtype.itemsize > 1 else tensor.float()
    if not bool(torch.isfinite(wide.sum(dtype=torch.float32))) and not bool(torch.isfinite(wide).all()):
        bad = int((~torch.isfinite(wide)).sum())
        raise AdapterError(
            f"{path}: {name} has {bad} NaN or infinite values of {tensor.numel()}. The training diverged or "
            "the file is damaged; use an earlier checkpoint."
        )
