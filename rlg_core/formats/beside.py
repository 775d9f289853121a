"""Finds the config of an adapter: in its file's header, or in a file beside it that is its own.

A folder may hold adapters of several trainings. A config belongs to a file that has its name (`NAME_config.json`), and
PEFT's and the trainers' configs to files named, or with keys named, as those tools name them. Any other config in the
folder may be another file's: whether it counts is the user's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .config import described, parse_object, peft_recipe, read_json, trainer_recipe
from .container import TensorFile
from .files import STEM
from .recipe import Recipe

PEFT_CONFIG, TRAINER_CONFIG = "adapter_config.json", "lora_config.json"
TRAINER_STEMS = (STEM, "pytorch_lora_weights")
"""What the trainers that write `lora_config.json` call the file beside it."""


def config_files(path: Path) -> list[Path]:
    """The files beside the adapter file `path` that may say how it is scaled."""
    names = (*_own_names(path), PEFT_CONFIG, TRAINER_CONFIG)
    return [file for name in names if (file := path.with_name(name)).is_file()]


def own_recipe(file: TensorFile, is_peft: bool, component: str) -> Recipe | None:
    """The recipe that is surely `file`'s, or None if there is none. The header comes before the files beside it."""
    return next(_own_recipes(file, is_peft, component), None)


def _own_recipes(file: TensorFile, is_peft: bool, component: str) -> Iterator[Recipe]:
    path, name = file.path, file.path.name
    header = _diffusers_config(f"{name}, lora_adapter_metadata", file.metadata, component)
    if header is not None:
        yield peft_recipe(f"{name}, lora_adapter_metadata", header)
    for beside in map(path.with_name, _own_names(path)):
        recipe = described(str(beside), read_json(beside), component) if beside.is_file() else None
        if recipe is not None:
            yield recipe
    for config, recipe in _folder_recipes(path, component):
        if is_peft or config == TRAINER_CONFIG and path.stem.startswith(TRAINER_STEMS):
            yield recipe()


def neighbour_recipe(path: Path, component: str) -> Recipe | None:
    """The first recipe in the folder's configs, which may be another file's, or None if there is none."""
    return next((recipe() for _, recipe in _folder_recipes(path, component)), None)


def _folder_recipes(path: Path, component: str) -> Iterator[tuple[str, Callable[[], Recipe]]]:
    """The configs of PEFT and of the trainers in the folder of `path`, each with what reads it."""
    peft, trainer = path.with_name(PEFT_CONFIG), path.with_name(TRAINER_CONFIG)
    if peft.is_file():
        yield PEFT_CONFIG, lambda: peft_recipe(str(peft), read_json(peft))
    if trainer.is_file():
        yield TRAINER_CONFIG, lambda: trainer_recipe(str(trainer), read_json(trainer), component)


def _own_names(path: Path) -> tuple[str, str]:
    return f"{path.stem}_config.json", f"{path.stem}.json"


def _diffusers_config(source: str, metadata: Mapping[str, str], component: str) -> dict[str, Any] | None:
    """diffusers' `lora_adapter_metadata` for one component (`transformer`, `unet`), or None if there is none."""
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return None
    config = parse_object(source, text)
    own = {name.split(".", 1)[1]: value for name, value in config.items() if name.startswith(component + ".")}
    return own or (config if "r" in config else None)
