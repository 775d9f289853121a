"""Finds the file of an adapter: a single file, or one in a PEFT folder, whose subfolders may hold other adapters."""

from __future__ import annotations

from pathlib import Path

from ..errors import AdapterError, shortened
from .container import PICKLES, SAFETENSORS

STEM = "adapter_model"
DEFAULT = "default"


def adapter_file(folder: Path) -> Path | None:
    """PEFT's weights file in `folder`, safetensors before pickles, or None if there is none."""
    candidates = (folder / (STEM + ending) for ending in (*SAFETENSORS, *PICKLES))
    return next((path for path in candidates if path.is_file()), None)


def named_adapters(folder: Path) -> dict[str, Path]:
    """The adapters of a PEFT folder by name: `default` in the folder itself, every other one in its own subfolder."""
    folders = {DEFAULT: folder} | {child.name: child for child in sorted(folder.iterdir()) if child.is_dir()}
    return {name: file for name, path in folders.items() if (file := adapter_file(path)) is not None}


def find_file(path: Path, adapter: str) -> tuple[Path, bool]:
    """The file of the adapter named `adapter` ("" means the default or the only one), and whether the name chose it.

    Raises `AdapterError` if there is none, or if there are several and none was named.
    """
    if not path.is_dir():
        return path, False
    found = named_adapters(path)
    if not found:
        raise AdapterError(f"{path}: no {STEM}.safetensors in this folder or its subfolders.")
    if adapter in found:
        return found[adapter], True
    if DEFAULT in found:
        return found[DEFAULT], False
    if not adapter and len(found) == 1:
        return next(iter(found.values())), False
    raise AdapterError(
        f"{path}: it holds the adapters {', '.join(found)}; "
        + (f"there is none named {shortened(adapter)}." if adapter else "name one of them in `adapter`.")
    )
