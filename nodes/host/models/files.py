"""Names in the loaders' lists <-> files in the host's model folders; the same names on every operating system."""

from __future__ import annotations

from pathlib import Path, PurePath

import folder_paths

from ...rlg_core.errors import AdapterError
from ...rlg_core.formats import STEM, adapter_file, named_adapters

FOLDER = "loras"


def adapter_names() -> list[str]:
    """The `lora_name` list: ordinary files, and each PEFT folder once, by the folder's name; `/` on every system."""
    names = {PurePath(name.replace("\\", "/")).as_posix() for name in folder_paths.get_filename_list(FOLDER)}
    folders = {PurePath(name).parent.as_posix() for name in names if PurePath(name).stem == STEM and "/" in name}
    return sorted(
        names - {name for name in names if _is_in_peft_folder(name)}
        | {f for f in folders if not _has_parent(f, folders)}
    )


def _is_in_peft_folder(name: str) -> bool:
    return PurePath(name).stem == STEM and "/" in name


def _has_parent(folder: str, folders: set[str]) -> bool:
    """Whether `folder` is a named adapter of the PEFT folder above it, reached through the `adapter` input."""
    return PurePath(folder).parent.as_posix() in folders


def adapter_path(name: str) -> Path:
    """The file or PEFT folder behind a name of the list. Raises `AdapterError` where there is none."""
    relative = PurePath(name.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise AdapterError(f"{name!r}: expected a name below models/{FOLDER}.")
    for root in folder_paths.get_folder_paths(FOLDER):
        path = Path(root, *relative.parts)
        if path.is_file() or path.is_dir() and (adapter_file(path) is not None or named_adapters(path)):
            return path.parent if path.stem == STEM and len(relative.parts) > 1 else path
    raise AdapterError(f"{name!r}: no adapter of that name in {', '.join(folder_paths.get_folder_paths(FOLDER))}.")


def fingerprint(name: str) -> str:
    """Changes when the adapter or a config beside it does: names, sizes and times of change."""
    try:
        path = adapter_path(name)
    except AdapterError as error:
        return str(error)
    folder = path if path.is_dir() else path.parent
    files = [path] if path.is_file() else list(named_adapters(path).values())
    files += [config for file in files for config in sorted(file.parent.glob("*_config.json"))]
    return " ".join(f"{file.relative_to(folder)}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)
