"""Which file an adapter is in: a single file, or a PEFT folder with the default adapter in it and others in subfolders."""

from __future__ import annotations

from pathlib import Path

from ..errors import AdapterError
from .container import PICKLES, SAFETENSORS

STEM = "adapter_model"
DEFAULT = "default"


def adapter_file(folder: Path) -> Path | None:
    """PEFT's weights file in `folder`, safetensors before pickles; None where there is none."""
    candidates = (folder / (STEM + ending) for ending in (*SAFETENSORS, *PICKLES))
    return next((path for path in candidates if path.is_file()), None)


def named_adapters(folder: Path) -> dict[str, Path]:
    """The adapters of a PEFT folder by name: `default` in the folder itself, each other one in its own subfolder."""
    folders = {DEFAULT: folder} | {child.name: child for child in sorted(folder.iterdir()) if child.is_dir()}
    return {name: file for name, path in folders.items() if (file := adapter_file(path)) is not None}


def find_file(path: Path, adapter: str) -> tuple[Path, bool]:
    """The file of the adapter named `adapter` ("" = default or only one), and whether the name chose that file.

    Raises `AdapterError` where there is none, or several and none was chosen.
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
        f"{path}: holds the adapters {', '.join(found)}; "
        + (f"there is none named {adapter!r}." if adapter else "name one of them in `adapter`.")
    )
