"""Models that were saved in parts: a folder with the parts and an `.index.json`, which tells what lies in which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import AdapterError, shortened
from .config import read_json
from .container import OpenFile, TensorFile, map_tensors, open_tensors

INDEX = ".index.json"


def index_files(folder: Path) -> list[Path]:
    """The indices in `folder`; none if it is no folder."""
    return sorted(folder.glob("*" + INDEX)) if folder.is_dir() else []


def model_files(path: Path) -> list[Path]:
    """The file at `path` itself, or the parts that the index of the folder names.

    Raises `AdapterError` for a folder with no index or several, and for parts that are missing or lie elsewhere.
    """
    if not path.is_dir():
        return [path]
    names = sorted(set(_weight_map(path).values()))
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise AdapterError(f"{path}: {len(missing)} of its {len(names)} parts are missing, first {missing[0]}.")
    return [path / name for name in names]


def map_model(path: Path) -> TensorFile:
    """The tensors of a model in one file, or in a folder in parts, mapped into memory."""
    files = [map_tensors(file) for file in model_files(path)]
    if not path.is_dir():
        return files[0]
    tensors = {name: tensor for file in files for name, tensor in file.tensors.items()}
    _check_parts(path, [*tensors], sum(len(file.tensors) for file in files))
    return TensorFile(path, tensors, files[0].metadata)


@contextmanager
def open_model(path: Path) -> Iterator[OpenModel]:
    """Opens a model in one file, or in a folder in parts, to read its tensors one by one.

    Raises `AdapterError` as `map_model` does, and for a file that changes while it is open.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(open_tensors(file)) for file in model_files(path)]
        places = {name: file for file in files for name in file.entries}
        if path.is_dir():
            _check_parts(path, [*places], sum(len(file.entries) for file in files))
        yield OpenModel(places, files[0].metadata)


@dataclass(frozen=True)
class OpenModel:
    """The open file of each tensor, by name, and the text entries of the first file's header."""

    places: Mapping[str, OpenFile]
    metadata: Mapping[str, str]

    def blank(self, name: str) -> Tensor:
        """The tensor `name` without its values: on the meta device."""
        return self.places[name].blank(name)

    def read(self, name: str) -> Tensor:
        """The tensor `name` in memory of its own."""
        return self.places[name].read(name)

    def pieces(self, name: str, size: int) -> Iterator[Tensor]:
        """The same, flat, `size` numbers at a time."""
        return self.places[name].pieces(name, size)


def _check_parts(folder: Path, names: Sequence[str], tensors: int) -> None:
    lacking = sorted(_weight_map(folder).keys() - {*names})
    if lacking or len(names) < tensors:
        first = f"{lacking[0]} is in none" if lacking else "one is in two"
        raise AdapterError(
            f"{folder}: the index and the parts do not agree on the weights ({first}). Download it again."
        )


def _weight_map(folder: Path) -> dict[str, str]:
    indices = index_files(folder)
    if len(indices) != 1:
        names = ", ".join(index.name for index in indices) or "none"
        raise AdapterError(f"{folder}: expected one {INDEX} in the folder, found {names}.")
    found = read_json(indices[0]).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise AdapterError(f"{indices[0]}: expected a weight_map, got {shortened(found)}.")
    for name, file in found.items():
        if not isinstance(file, str) or Path(file).name != file or Path(file).suffix != ".safetensors":
            raise AdapterError(
                f"{indices[0]}: {shortened(name)}: expected a .safetensors file beside it, got {shortened(file)}."
            )
    return found
