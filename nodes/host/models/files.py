"""Names in the loaders' lists <-> files in the host's model folders; the same names on every operating system."""

from __future__ import annotations

from pathlib import Path, PurePath

import folder_paths

from ....rlg_core.errors import AdapterError, RLGError
from ....rlg_core.formats import STEM, adapter_file, named_adapters
from ....rlg_core.formats.container import SAFETENSORS

ADAPTERS = "loras"
MODELS = ("checkpoints", "diffusion_models")
REWARDS = "rlg_rewards"
NO_FOLDER = "none"

OWN_MODELS = Path(__file__).resolve().parents[3] / "demo" / "models"
"""The small models that come with the pack, for its templates. The loaders list them if they are there."""

folder_paths.add_model_folder_path(REWARDS, str(Path(folder_paths.models_dir) / REWARDS))
for _folder in sorted(OWN_MODELS.glob("*")):
    folder_paths.add_model_folder_path(_folder.name, str(_folder))


def _posix(name: str) -> str:
    """A name from the host's lists, with `/` on every system."""
    return PurePath(name.replace("\\", "/")).as_posix()


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
    relative = PurePath(name.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise AdapterError(f"{name!r}: expected a name below models/{ADAPTERS}.")
    for root in folder_paths.get_folder_paths(ADAPTERS):
        path = Path(root, *relative.parts)
        if path.is_file() or path.is_dir() and (adapter_file(path) is not None or named_adapters(path)):
            return path.parent if path.stem == STEM and len(relative.parts) > 1 else path
    raise AdapterError(f"{name!r}: no adapter of that name in {', '.join(folder_paths.get_folder_paths(ADAPTERS))}.")


def adapter_fingerprint(name: str) -> str:
    """Changes when the adapter or a config beside it changes: names, sizes and modification times."""
    try:
        path = adapter_path(name)
    except AdapterError as error:
        return str(error)
    folder = path if path.is_dir() else path.parent
    files = [path] if path.is_file() else list(named_adapters(path).values())
    files += [config for file in files for config in sorted(file.parent.glob("*_config.json"))]
    return " ".join(f"{file.relative_to(folder)}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)


# Checkpoints and diffusion models


def model_names() -> list[str]:
    """`folder/name` of every safetensors file in both folders, with `/` on every system.

    The folder is always named: a plain name would mean another file once both folders hold one of that name.
    """
    return sorted(
        f"{folder}/{_posix(name)}"
        for folder in MODELS
        for name in folder_paths.get_filename_list(folder)
        if PurePath(name).suffix.lower() in SAFETENSORS
    )


def model_path(name: str) -> Path:
    """The file behind a name in the list, or behind a stock loader's plain name if only one folder holds it.

    Raises `AdapterError` if there is none, or if a plain name is in both folders.
    """
    name = name.replace("\\", "/")
    folder, _, rest = name.partition("/")
    found = folder_paths.get_full_path(folder, rest) if folder in MODELS and rest else None
    if found is not None:
        return Path(found)
    plain = {folder: path for folder in MODELS if (path := folder_paths.get_full_path(folder, name)) is not None}
    if len(plain) == 1:
        return Path(*plain.values())
    if plain:
        choices = " or ".join(f"{folder}/{name}" for folder in plain)
        raise AdapterError(f"{name!r} is in both folders. Choose {choices}.")
    raise AdapterError(f"{name!r}: no model of that name. Expected a file below models/{' or models/'.join(MODELS)}.")


def model_fingerprint(*names: str) -> str:
    """Changes when one of the files changes: sizes and modification times."""
    facts = []
    for name in names:
        try:
            stat = model_path(name).stat()
            facts.append(f"{name}:{stat.st_size}:{stat.st_mtime_ns}")
        except AdapterError as error:
            facts.append(str(error))
    return " ".join(facts)


# Reward models


def reward_folders() -> list[str]:
    """The model folders below `models/rlg_rewards`, each by its name."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(REWARDS)]
    names = {path.name for root in roots if root.is_dir() for path in root.iterdir() if path.is_dir()}
    return [NO_FOLDER, *sorted(names)]


def reward_fingerprint(name: str) -> str:
    """Changes when a file in the model folder changes, so that the host loads it again."""
    if name not in reward_folders() or name == NO_FOLDER:
        return name
    files = sorted(path for path in reward_folder(name).rglob("*") if path.is_file())
    return repr([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files])


def reward_folder(name: str) -> Path:
    """The path of the folder of that name. Raises `RLGError` if there is none."""
    roots = folder_paths.get_folder_paths(REWARDS)
    for root in roots:
        path = Path(root) / name
        if name in reward_folders() and path.is_dir():
            return path
    raise RLGError(
        f"This reward needs a model folder, and {name!r} is none in {', '.join(roots)}. "
        "The node's help lists the files it needs."
    )
