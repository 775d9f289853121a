"""Names in the loaders' lists <-> files in the host's model folders; the same names on every operating system."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from types import ModuleType

import folder_paths

from ....rlg_core.errors import AdapterError, RLGError, shortened
from ....rlg_core.formats import STEM, adapter_file, index_files, map_model, named_adapters
from ....rlg_core.formats.container import SAFETENSORS, SHARD

ADAPTERS = "loras"
MODELS = ("checkpoints", "diffusion_models")
GGUF = "unet_gguf"
REWARDS = "rlg_rewards"
NO_FOLDER = "none"

OWN_MODELS = Path(__file__).resolve().parents[3] / "demo" / "models"
"""The small models that come with the pack, for its templates. The loaders list them if they are there."""

FORMERLY = OWN_MODELS / ADAPTERS / "rlg-demo"
"""The folder of the demo's adapters, which 0.1.0 listed by their own names: graphs that were saved then still load."""

folder_paths.add_model_folder_path(REWARDS, str(Path(folder_paths.models_dir) / REWARDS))
for _folder in sorted(OWN_MODELS.glob("*")):
    folder_paths.add_model_folder_path(_folder.name, str(_folder))


def _posix(name: str) -> str:
    """A name from the host's lists, with `/` on every system."""
    return PurePath(name.replace("\\", "/")).as_posix()


def below(root: str, name: str, system: ModuleType = os.path) -> str | None:
    """The path `name` below the folder `root`, or None if it names another place. Links in the folder are followed.

    `system` holds the operating system's rules for paths: on Windows `C:a` and `/a` leave the folder too.
    """
    root = system.abspath(root)
    path = system.abspath(system.join(root, name))
    try:
        inside = system.commonpath([root, path]) == root and path != root
    except ValueError:  # another drive
        return None
    return path if inside else None


def _candidates(folder: str, name: object) -> list[Path]:
    """What there is of that `name` below the host's folders of that kind; nothing for a name that leaves them."""
    if not isinstance(name, str):
        return []
    roots = [*folder_paths.get_folder_paths(folder), *([str(FORMERLY)] if folder == ADAPTERS else [])]
    found = (below(root, name.replace("\\", "/")) for root in roots)
    return [Path(path) for path in found if path is not None and _exists(path)]


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except (OSError, ValueError):  # also a name that is too long, or has characters that the system's names have not
        return False
    return True


def folder_files(folder: str) -> list[Path]:
    """Every file in the host's list of that folder, and the configs beside them."""
    names = folder_paths.get_filename_list(folder)
    files = [Path(path) for name in names if (path := folder_paths.get_full_path(folder, name)) is not None]
    return files + [config for parent in sorted({file.parent for file in files}) for config in parent.glob("*.json")]


# Adapters


def adapter_names() -> list[str]:
    """The `lora_name` list: ordinary files, and each PEFT folder once by its name, with `/` on every system."""
    names = {_posix(name) for name in folder_paths.get_filename_list(ADAPTERS)}
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
    """The file or PEFT folder behind a name in the list. Raises `AdapterError` if there is none."""
    for path in _candidates(ADAPTERS, name):
        if path.is_file() or path.is_dir() and (adapter_file(path) is not None or named_adapters(path)):
            return path.parent if path.stem == STEM and _is_in_peft_folder(_posix(name)) else path
    roots = ", ".join(folder_paths.get_folder_paths(ADAPTERS))
    raise AdapterError(f"{shortened(name)}: no adapter of that name below models/{ADAPTERS} ({roots}).")


def name_of_adapter(path: Path) -> str:
    """The name by which the adapter file `path` is found; its whole path if another one has that name, or it has none.

    Several folders may hold a file of one name, and the host takes the first.
    """
    roots = [Path(root) for root in folder_paths.get_folder_paths(ADAPTERS)]
    name = next((path.relative_to(root).as_posix() for root in roots if path.is_relative_to(root)), None)
    found = _candidates(ADAPTERS, name)
    return name if name is not None and found and found[0].samefile(path) else str(path)


# Checkpoints and diffusion models


def model_names() -> list[str]:
    """`folder/name` of every safetensors file in both folders, with `/` on every system.

    The folder is always named: a plain name would mean another file once both folders hold one of that name. A model
    that was saved in parts, in a folder with an `.index.json`, is listed once, by that folder. GGUF files are listed
    where ComfyUI-GGUF is installed.
    """
    return sorted({_listed(folder, _posix(name)) for folder in MODELS for name in _safetensors(folder)} | _gguf())


def is_gguf(path: Path) -> bool:
    return path.suffix.lower() == ".gguf"


def _gguf() -> set[str]:
    """The GGUF files, by the list that ComfyUI-GGUF gives the host: those below the folders of diffusion models."""
    known = folder_paths.get_filename_list(GGUF) if GGUF in folder_paths.folder_names_and_paths else []
    return {f"{MODELS[1]}/{_posix(name)}" for name in known}


def _safetensors(folder: str) -> list[str]:
    names = folder_paths.get_filename_list(folder)
    return [name for name in names if PurePath(name).suffix.lower() in SAFETENSORS]


def _listed(folder: str, name: str) -> str:
    parent = PurePath(name).parent
    if SHARD.search(PurePath(name).stem) and parent.parts:
        path = folder_paths.get_full_path(folder, name)
        if path is not None and index_files(Path(path).parent):
            return f"{folder}/{parent.as_posix()}"
    return f"{folder}/{name}"


def model_path(name: str) -> Path:
    """The file behind a name in the list, or behind a stock loader's plain name if only one folder holds it.

    Raises `AdapterError` if there is none, or if a plain name is in both folders.
    """
    folder, _, rest = _posix(name).partition("/") if isinstance(name, str) else ("", "", "")
    found = _models(folder, rest) if folder in MODELS and rest else []
    if found:
        return found[0]
    plain = {folder: paths[0] for folder in MODELS if (paths := _models(folder, name))}
    if len(plain) == 1:
        return next(iter(plain.values()))
    if plain:
        choices = " or ".join(f"{folder}/{name}" for folder in plain)
        raise AdapterError(f"{shortened(name)} is in both folders. Choose {choices}.")
    expected = f"models/{' or models/'.join(MODELS)}"
    raise AdapterError(f"{shortened(name)}: no model of that name. Expected a file below {expected}.")


def _models(folder: str, name: str) -> list[Path]:
    return [path for path in _candidates(folder, name) if path.is_file() or index_files(path)]


def refusal(*names: str | None) -> str | None:
    """Why one of these names is no whole model's, as far as headers tell, or None. Linked names (None) pass."""
    try:
        for name in names:
            if name is not None:
                map_model(model_path(name))
    except RLGError as error:
        return str(error)
    return None


# Files that are written


def new_file(filename_prefix: str, ending: str) -> Path:
    """A file or folder that does not exist yet, below the output folder, under the next free number.

    Raises `RLGError` for a prefix that leaves the output folder, or that the system cannot use in a name.
    """
    root = folder_paths.get_output_directory()
    if not isinstance(filename_prefix, str) or below(root, filename_prefix + "_") is None:
        raise RLGError(f"filename_prefix is {shortened(filename_prefix)}: expected a name below {root}.")
    try:
        folder, name, counter, *_ = folder_paths.get_save_image_path(filename_prefix, root)
        path = Path(folder, f"{name}_{counter:05}_{ending}")
        os.stat(path)
    except FileNotFoundError:
        return path
    except (OSError, ValueError) as error:  # also for characters that the system's names have not
        raise RLGError(
            f"filename_prefix is {shortened(filename_prefix)}: no file can have such a name ({type(error).__name__}), "
            "or its folder cannot be written to."
        ) from error
    raise RLGError(f"{path}: there is a file of that name already; it is not overwritten.")


# Reward models


def reward_folders() -> list[str]:
    """The model folders below `models/rlg_rewards`, each by its name."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(REWARDS)]
    names = {path.name for root in roots if root.is_dir() for path in root.iterdir() if path.is_dir()}
    return [NO_FOLDER, *sorted(names)]


def reward_folder(name: str) -> Path:
    """The path of the folder of that name. Raises `RLGError` if there is none."""
    roots = folder_paths.get_folder_paths(REWARDS)
    for root in roots if name in reward_folders() else []:
        if (Path(root) / name).is_dir():
            return Path(root) / name
    raise RLGError(
        f"This reward needs a model folder, and {shortened(name)} is none in {', '.join(roots)}. "
        "The node's help lists the files it needs."
    )
