"""Modules that nodes inject into a network, as AnimateDiff and a LoRA in bypass mode (since 0.30) do."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
from comfy.model_base import BaseModel

Injections = Mapping[str, Sequence[Any]]
"""The host's `PatcherInjection`s of a model, by the name under which a node has injected them."""


def injected_adapters(injections: Sequence[Any]) -> dict[str, list[tuple[Any, float]]]:
    """The (adapter, strength) pairs of LoRAs in bypass mode, by module; empty for what other packs inject.

    The host keeps them with what makes the hooks, which only the injecting function itself refers to. A second LoRA in
    bypass mode takes the first one's name, and its place.
    """
    found: dict[str, list[tuple[Any, float]]] = {}
    for injection in injections:
        maker = _maker(injection.inject)
        for module, adapter in maker.adapters.items() if type(maker).__name__ == "BypassInjectionManager" else ():
            found.setdefault(module, []).append(adapter)
    return found


def _maker(inject: Any) -> Any:
    """What a method that is nested in another one takes as its `self`, or None."""
    names = inject.__code__.co_freevars if inspect.isfunction(inject) else ()
    cells = dict(zip(names, inject.__closure__ or ())) if names else {}
    return cells["self"].cell_contents if "self" in cells else None


@contextmanager
def without_injections(model: BaseModel) -> Iterator[None]:
    """Takes what is injected into the network of `model` out of it meanwhile, so that its layers have their own names.

    A module that is injected between others moves those behind it to other names. It stays in the network after a run,
    until the host loads the next patcher of the model (both hosts).
    """
    with ExitStack() as ejected:
        for loaded in comfy.model_management.current_loaded_models:
            if loaded.model is not None and loaded.model.model is model:
                ejected.enter_context(loaded.model.use_ejected())
        yield
