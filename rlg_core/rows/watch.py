"""Sees which blocks of a network run in a call, so that a partial pass cannot be taken for a whole one.

And whether anybody reads the weights of a layer that does not run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import Any

from torch import nn

from .terms import is_linear_or_conv


def sentinels(network: nn.Module) -> dict[str, tuple[str, nn.Module]]:
    """The first layer in each block of `network`, and in each of its other parts: {block: (name, layer)}.

    Blocks are the items of its lists of modules. Caches leave out blocks and never a part of one.
    """
    found = {}
    for name, child in network.named_children():
        is_list = isinstance(child, (nn.ModuleList, nn.ModuleDict))
        for part_name, part in child.named_children() if is_list else [("", child)]:
            prefix = ".".join(filter(None, (name, part_name)))
            layer = next(((inner, m) for inner, m in part.named_modules() if is_linear_or_conv(m)), None)
            if layer is not None:
                found[prefix] = (".".join(filter(None, (prefix, layer[0]))), layer[1])
    return found


class BlockWatch:
    """Notes which of a network's sentinels run while it is watched."""

    def __init__(self, network: nn.Module):
        found = sentinels(network)
        self.of_block = {block: name for block, (name, _) in found.items()}
        self.sentinels = dict(found.values())

    def beside(self, ran: Collection[str], layers: Collection[str]) -> list[str]:
        """Those of `layers` that are in a block whose sentinel is among those that `ran`."""
        blocks = [f"{block}." for block, name in self.of_block.items() if name in ran]
        return [layer for layer in layers if any(layer.startswith(block) for block in blocks)]

    @contextmanager
    def watching(self) -> Iterator[set[str]]:
        """Watches the forwards of the sentinels; yields the names of those that have run so far."""
        ran: set[str] = set()
        previous = {name: module.__dict__.get("forward") for name, module in self.sentinels.items()}
        for name, module in self.sentinels.items():
            module.__dict__["forward"] = _noting(ran, name, previous[name] or MethodType(type(module).forward, module))
        try:
            yield ran
        finally:
            for name, module in self.sentinels.items():
                if previous[name] is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = previous[name]


def _noting(ran: set[str], name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        ran.add(name)
        return forward(*args, **kwargs)

    return noted


class _NotedReads(dict):
    """A module's parameters, noting its name when one of them is asked for by name."""

    def __init__(self, parameters: Mapping[str, nn.Parameter | None], note: Callable[[], None]):
        super().__init__(parameters)
        self.note = note

    def __getitem__(self, name: str) -> nn.Parameter | None:
        self.note()
        return super().__getitem__(name)


@contextmanager
def reads(modules: Mapping[str, nn.Module], ahead: Collection[str] = ()) -> Iterator[set[str]]:
    """Notes whose parameters are read while the context lasts; yields the names of those modules so far.

    Reads in the course of a function of the Python modules named `ahead` do not count: they only move weights.
    """
    read: set[str] = set()
    own = {name: module._parameters for name, module in modules.items()}
    for name, module in modules.items():
        module.__dict__["_parameters"] = _NotedReads(own[name], partial(_note, read, name, ahead))
    try:
        yield read
    finally:
        for name, module in modules.items():
            own[name].update(module.__dict__["_parameters"])
            module.__dict__["_parameters"] = own[name]


def _note(read: set[str], name: str, ahead: Collection[str]) -> None:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") in ahead:
            return
        frame = frame.f_back
    read.add(name)
