"""Modules that nodes inject into a network, as a LoRA in bypass mode does (since 0.30), and when two are the same."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

Injections = Mapping[str, Sequence[Any]]
"""The host's `PatcherInjection`s of a model, by the name under which a node has injected them."""


def injected_adapters(injections: Sequence[Any]) -> dict[str, list[tuple[Any, float]]]:
    """The (adapter, strength) pairs of LoRAs in bypass mode, by module; empty for what other packs inject.

    The host keeps them with what makes the hooks, which only the injecting function itself refers to. A second LoRA in
    bypass mode takes the first one's name, and its place.
    """
    found: dict[str, list[tuple[Any, float]]] = {}
    for injection in injections:
        variables = inspect.getclosurevars(injection.inject).nonlocals if inspect.isfunction(injection.inject) else {}
        for module, adapter in getattr(variables.get("self"), "adapters", {}).items():
            found.setdefault(module, []).append(adapter)
    return found
