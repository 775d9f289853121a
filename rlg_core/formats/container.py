"""Reads safetensors files. Every defect is an `AdapterError` that names the file.

Checkpoints are mapped into memory: they are large, and the host maps them too. Adapters are small and live long beside
a model, so their tensors are read into memory: whatever happens to the file later, they stay as they were checked.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..downloads import impostor
from ..errors import AdapterError, shortened

SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
"""How the name of one part of a file that was saved in parts ends."""

LONGEST_HEADER = 32 * 2**20
LONGEST_NAME = 512
"""Bounds for a file's header, in bytes, and for a tensor's name, in characters. Real ones have a tenth of it."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
if hasattr(torch, "float8_e8m0fnu"):  # since torch 2.7
    DTYPES["F8_E8M0"] = torch.float8_e8m0fnu


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one file and the text entries of its header."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def map_tensors(path: Path) -> TensorFile:
    """Maps `path` into memory; the values of its tensors are not read yet.

    Raises `AdapterError` for a pickle or any other file that is not safetensors, and for a corrupt or truncated one.
    """
    _check_ending(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise AdapterError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read ({error}).") from error
    except (SafetensorError, ValueError, RuntimeError, TypeError) as error:
        raise AdapterError(_not_whole(path, str(error))) from error
    if not tensors:
        raise AdapterError(f"{path}: the file holds no tensors.")
    return TensorFile(path, tensors, metadata)


@contextmanager
def open_tensors(path: Path) -> Iterator[OpenFile]:
    """Opens `path` and checks its header; tensors are read one by one, into memory of their own.

    Raises `AdapterError` as `map_tensors` does, and for a file that changes while it is open.
    """
    _check_ending(path)
    try:
        with path.open("rb") as file:
            before = _state(file)
            yield OpenFile(path, file)
            if _state(file) != before:
                raise AdapterError(f"{path}: the file was changed while it was read. Load it again.")
    except FileNotFoundError as error:
        raise AdapterError(f"{path}: there is no such file.") from error
    except OSError as error:
        raise AdapterError(f"{path}: cannot be read ({error}).") from error


def _state(file: BinaryIO) -> tuple[int, int]:
    state = os.fstat(file.fileno())
    return state.st_size, state.st_mtime_ns


@dataclass(frozen=True)
class Entry:
    """What the header says about one tensor: its dtype's name, its shape, its first byte and the one after its last."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class OpenFile:
    """An open safetensors file: `entries` by name, and `metadata`, the text entries of its header."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size
        self.entries, self.metadata, self.data = self._header()

    def blank(self, name: str) -> Tensor:
        """The tensor `name` without its values: on the meta device."""
        return torch.empty(self.entries[name].shape, dtype=self._dtype(name), device="meta")

    def read(self, name: str) -> Tensor:
        """The tensor `name` in memory of its own."""
        shape = self.entries[name].shape
        return self._values(name, 0, math.prod(shape)).reshape(shape)

    def pieces(self, name: str, size: int) -> Iterator[Tensor]:
        """The tensor `name`, flat, `size` numbers at a time."""
        numbers = math.prod(self.entries[name].shape)
        for first in range(0, numbers, size):
            yield self._values(name, first, min(size, numbers - first))

    def _values(self, name: str, first: int, count: int) -> Tensor:
        dtype = self._dtype(name)
        content = torch.empty(count * dtype.itemsize, dtype=torch.uint8)
        self.file.seek(self.data + self.entries[name].start + first * dtype.itemsize)
        if self.file.readinto(content.numpy()) != len(content):
            raise self._corrupt(f"it ends inside {name}")
        return content.view(dtype)

    def _dtype(self, name: str) -> torch.dtype:
        entry = self.entries[name]
        if entry.dtype not in DTYPES:
            raise AdapterError(f"{self.path}: {name} has dtype {entry.dtype}, expected floating-point values.")
        dtype = DTYPES[entry.dtype]
        if math.prod(entry.shape) * dtype.itemsize != entry.end - entry.start:
            raise self._corrupt(f"{name} has {entry.end - entry.start} bytes for shape {list(entry.shape)}")
        return dtype

    def _header(self) -> tuple[dict[str, Entry], dict[str, str], int]:
        length = int.from_bytes(self.file.read(8), "little")
        if length > min(LONGEST_HEADER, self.size - 8):
            raise self._corrupt(f"its header would have {length} bytes")
        try:
            header = json.loads(self.file.read(length).decode("utf-8"))
            metadata = header.pop("__metadata__", None) or {}
            entries = {name: _entry(name, entry) for name, entry in header.items()}
            for text in (*entries, *metadata, *metadata.values()):
                text.encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise self._corrupt(f"its header: {type(error).__name__}, {shortened(str(error))}") from error
        self._check_places(entries, self.size - 8 - length)
        return entries, metadata, 8 + length

    def _check_places(self, entries: Mapping[str, Entry], size: int) -> None:
        """Tensors must fill the rest of the file without gaps, so that none is read twice and none is cut off."""
        if not entries:
            raise AdapterError(f"{self.path}: the file holds no tensors.")
        at = 0
        for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)):
            if entry.start != at or entry.end < at:
                raise self._corrupt(f"{name} lies at {entry.start} to {entry.end}, and {at} is the next free byte")
            at = entry.end
        if at != size:
            raise self._corrupt(f"its header tells of {at} bytes of tensors, and it has {size}")

    def _corrupt(self, why: str) -> AdapterError:
        return AdapterError(_not_whole(self.path, why))


def _entry(name: str, entry: Mapping[str, Any]) -> Entry:
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a tensor's name has {len(name)} characters")
    dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or len(dtype) > 16:
        raise ValueError(f"{name} has no dtype")
    if not all(type(number) is int and 0 <= number < 2**48 for number in (*shape, start, end)) or len(shape) > 16:
        raise ValueError(f"{name} has no shape or no place in the file")
    return Entry(dtype, tuple(shape), start, end)


def _check_ending(path: Path) -> None:
    if path.suffix.lower() in PICKLES:
        raise AdapterError(
            f"{path}: {path.suffix} files are pickles, which can run code when opened, so they are refused. "
            "Convert it to .safetensors first: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)."
        )
    if path.suffix.lower() not in SAFETENSORS:
        raise AdapterError(f"{path}: expected a .safetensors file, got {path.suffix or 'a name without an extension'}.")


def shard_advice(path: Path) -> str:
    """What to do about a file that is not whole: whether it is one of several parts, its name tells."""
    shard = SHARD.search(path.stem)
    if shard is None:
        return "Download it or save it again."
    return (
        f"It is part {int(shard[1])} of {int(shard[2])} of one model: join the shards into one file, or put all of "
        "them and their .index.json into one folder, and choose the folder."
    )


def _not_whole(path: Path, why: str) -> str:
    other = impostor(path)
    return f"{path}: {other or f'not a whole safetensors file ({why[:300]}). {shard_advice(path)}'}"


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
