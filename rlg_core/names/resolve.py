"""Finds the host's weight, and the rows of it, for a module name in an adapter file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .cuts import SWAPPED, Cut
from .rule import Architecture, Block
from .spelling import every_spelling
from .table import ARCHITECTURES


@dataclass(frozen=True)
class Target:
    """A parameter of the host: its key and shape, and the `cut` (first row, number of rows), None for all rows.

    `swapped` tells whether the two halves of its rows are in the reverse order of the file's.
    """

    key: str
    shape: tuple[int, ...]
    cut: tuple[int, int] | None = None
    swapped: bool = False


@dataclass(frozen=True)
class _Module:
    host: str
    cut: Cut | tuple[int, int] | None = None


class NameMap:
    """The names under which adapter files may address one model's weights.

    `shapes` are those of the model's parameters, whose keys start with `prefix`. `host_names` are the host's own names
    for adapters, for models without rules here. They map to a key, to (key, (dimension, first row, rows)), or to these
    two and a function that swaps halves. `diffusers_names` map diffusers' parameters to the host's, without the prefix,
    where the host has such a map (UNets).
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        prefix: str = "",
        host_names: Mapping[str, Any] | None = None,
        weight_names: Sequence[str] = ("weight",),
        diffusers_names: Mapping[str, str] | None = None,
    ):
        self.prefix, self.weight_names = prefix, weight_names
        self.shapes = {key[len(prefix) :]: shape for key, shape in shapes.items() if key.startswith(prefix)}
        hosts = dict.fromkeys(module for key in self.shapes for module in (key.rpartition(".")[0], key) if module)
        self.architecture = next((known for known in ARCHITECTURES if known.is_of(hosts)), None)
        self.sources = {
            **dict(_rule_names(self.architecture, hosts)),
            **{_owner(name): _Module(_owner(key)) for name, key in sorted((diffusers_names or {}).items())},
        }
        self.modules: dict[str, _Module] = {
            **dict(_host_names(host_names or {}, prefix)),
            **{host: _Module(host) for host in hosts},
            **self.sources,
        }
        self.flat = {name.replace(".", "_"): name for name in self.modules}

    def find(self, module: str, parameter: str) -> Target | None:
        """The host's parameter, or None. `parameter` is `weight`, `bias`, or "" if `module` is itself the parameter."""
        for name in every_spelling(module):
            known = name if name in self.modules else self.flat.get(name)
            target = self._target(self.modules[known], parameter) if known is not None else None
            if target is not None:
                return target
        return None

    def source_names(self) -> Iterator[tuple[str, Target]]:
        """Every name that diffusers gives, with the weight it stands for: for writing adapters."""
        for name, module in self.sources.items():
            target = self._target(module, "weight")
            if target is not None:
                yield name, target

    def _target(self, module: _Module, parameter: str) -> Target | None:
        names = self.weight_names if parameter == "weight" else (parameter,)
        keys = (f"{module.host}.{name}" if name else module.host for name in names)
        key = next((key for key in keys if key in self.shapes), None)
        if key is None:
            return None
        shape, cut = self.shapes[key], module.cut
        width = (self.shapes.get(f"{module.host}.weight") or shape)[-1]
        if cut is SWAPPED:
            return Target(self.prefix + key, shape, swapped=shape[0] == 2 * width)
        return Target(self.prefix + key, shape, cut(shape[0], width) if callable(cut) else cut)


def _owner(parameter: str) -> str:
    return parameter.removesuffix(".weight").removesuffix(".bias")


def _host_names(names: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, _Module]]:
    for name, value in names.items():
        key, offset, function = (*((value,) if isinstance(value, str) else value), None, None)[:3]
        if key.startswith(prefix) and (offset is None or offset[0] == 0):
            host = key[len(prefix) :].removesuffix(".weight")
            cut = SWAPPED if function is not None else None if offset is None else tuple(offset[1:])
            yield name, _Module(host, cut)


def _rule_names(architecture: Architecture | None, hosts: Iterable[str]) -> Iterator[tuple[str, _Module]]:
    """Every name that an architecture's rules give to the modules of the model."""
    if architecture is None:
        return
    blocks = [
        (block, re.compile(re.escape(block.host).replace(r"\#", r"(\d+)") + r"\.(.+)")) for block in architecture.blocks
    ]
    unchanged = re.compile("|".join(architecture.unchanged) or r"(?!)")
    for host in hosts:
        if unchanged.fullmatch(host):
            yield host, _Module(host)
        for source, cut in architecture.top.get(host, {}).items():
            yield source, _Module(host, cut)
        for block, pattern in blocks:
            match = pattern.fullmatch(host)
            if match:
                yield from _block_names(block, match, host)


def _block_names(block: Block, match: re.Match[str], host: str) -> Iterator[tuple[str, _Module]]:
    *numbers, leaf = match.groups()
    source = block.source
    for number in numbers:
        source = source.replace("#", number, 1)
    for name, cut in block.leaves.get(leaf, {}).items():
        yield f"{source}.{name}", _Module(host, cut)
