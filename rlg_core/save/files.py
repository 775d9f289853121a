"""Writes adapter files to disk: complete under their final name, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import AdapterError


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file, whole or not at all.

    Raises `AdapterError` if `path` exists, or if it cannot be written (a full disk, a folder without permission).
    """
    if path.exists():
        raise AdapterError(f"{path}: there is a file of that name already; it is not overwritten.")
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with _all_or_nothing(path, unfinished):
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(unfinished, tensors, metadata)
        os.replace(unfinished, path)


def _save(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file with the mode that the user's umask gives: `save_file` makes files for their owner alone."""
    path.touch()
    mode = path.stat().st_mode
    save_file(_separate(tensors), path, {"format": "pt", **metadata})
    path.chmod(mode)


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
    """Writes a PEFT adapter folder, whole or not at all. Raises `AdapterError` as `write` does."""
    if folder.exists():
        raise AdapterError(f"{folder}: there is a folder of that name already; it is not overwritten.")
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    with _all_or_nothing(folder, unfinished):
        unfinished.mkdir(parents=True)
        _save(unfinished / "adapter_model.safetensors", tensors, metadata)
        text = json.dumps(config, indent=2) + "\n"
        (unfinished / "adapter_config.json").write_text(text, encoding="utf-8")
        unfinished.rename(folder)


@contextmanager
def _all_or_nothing(path: Path, unfinished: Path) -> Iterator[None]:
    """Removes what is left under the `unfinished` name, and raises `AdapterError` if `path` cannot be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path}: cannot be written ({error}). Nothing was saved.") from error
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        elif unfinished.exists():
            unfinished.unlink()
