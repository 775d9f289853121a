"""Sees which blocks of a network run in a call, so that a partial pass cannot be taken for a whole one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

from torch import nn

from .terms import is_linear_or_conv


def sentinels(network: nn.Module) -> dict[str, nn.Module]:
    """The first layer in each block of `network`, and in each of its other parts, by name.

    Blocks are the items of its lists of modules. Caches leave out blocks and never a part of one.
    """
    found = {}
    for name, child in network.named_children():
        is_list = isinstance(child, (nn.ModuleList, nn.ModuleDict))
        for part_name, part in child.named_children() if is_list else [("", child)]:
            prefix = ".".join(filter(None, (name, part_name)))
            layer = next(((inner, m) for inner, m in part.named_modules() if is_linear_or_conv(m)), None)
            if layer is not None:
                found[".".join(filter(None, (prefix, layer[0])))] = layer[1]
    return found


class BlockWatch:
    """Notes which of a network's sentinels run while it is watched."""

    def __init__(self, network: nn.Module):
        self.sentinels = sentinels(network)

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
