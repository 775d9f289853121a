"""What a node gets where a person has just put it into a graph: its widgets' defaults, and small objects on links."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .tensors import random

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


class NoGraph(Exception):
    """There is no small graph here in which a node does something."""


class NoInput(NoGraph):
    """A node asks for something that is not here."""


def declared(cls: type) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """The inputs that a node of either API declares: {name: (type, options)}, optional links left out."""
    inputs = cls.INPUT_TYPES()
    found = {}
    for group in ("required", "optional"):
        for name, (kind, *options) in inputs.get(group, {}).items():
            if group == "required" or is_widget(kind):
                found[name] = (kind, options[0] if options else {})
    return found


def is_widget(kind: Any) -> bool:
    return isinstance(kind, (list, tuple)) or kind in WIDGETS


def outputs(cls: type) -> list[str]:
    return [str(kind) for kind in cls.RETURN_TYPES]


def has_model(cls: type) -> bool:
    """Whether a node takes a model."""
    return bool(models_of(cls))


def models_of(cls: type) -> list[str]:
    """The inputs for models: those that a node cannot do without or, if there are none, the first optional one."""
    inputs = cls.INPUT_TYPES()
    required, optional = (
        [name for name, (kind, *_) in inputs.get(group, {}).items() if kind == "MODEL"]
        for group in ("required", "optional")
    )
    return required or optional[:1]


def widget_default(name: str, kind: Any, options: Mapping[str, Any]) -> Any:
    """What a widget shows when its node is put into a graph."""
    if "default" in options:
        return options["default"]
    choices = kind if isinstance(kind, (list, tuple)) else options.get("options")
    if choices is not None:
        if not choices:
            raise NoInput(f"{name}: there is no file to choose")
        return choices[0]
    return {"INT": 1, "FLOAT": 1.0, "STRING": "", "BOOLEAN": False}[kind]


def moved(value: Any, kind: Any, options: Mapping[str, Any]) -> Any:
    """Another value of a number's widget, within its limits: many nodes change nothing at their defaults."""
    if kind != "FLOAT":
        return value
    low, high = options.get("min", 0.0), options.get("max", 1.0)
    return min(max(value * 0.6 + 0.1, low), high)


def call(cls: type, inputs: Mapping[str, Any]) -> tuple:
    """Every output of a node of either API."""
    function = cls.execute if hasattr(cls, "execute") else getattr(cls(), cls.FUNCTION)
    result = function(**inputs)
    return tuple(result["result"] if isinstance(result, dict) else getattr(result, "result", result))


class Links:
    """Small objects for the links of a graph, by type; the first model of a node is the one in question."""

    def __init__(self, models: Any):
        self.models = models
        self.made: dict[str, Callable[[], Any]] = {
            "CONDITIONING": self._conditioning,
            "LATENT": lambda: {"samples": torch.zeros(self.settings.shape)},
            "IMAGE": lambda: random(1, 32, 32, 3, seed=7).abs().clamp(max=1.0),
            "MASK": lambda: torch.ones(1, 32, 32),
            "SIGMAS": lambda: self.settings.sigmas(models.host, models.model),
            "SAMPLER": lambda: models.host.comfy.samplers.sampler_object("euler"),
            "LATENT_OPERATION": lambda: lambda latent, **_: latent * 0.9,
            "LORA_MODEL": lambda: models.style,
            "CLIP": lambda: None,
        }
        self.settings = models.sampling()
        self.begin()

    def begin(self) -> None:
        """The next node gets what the one before got."""
        self.conditionings = 20

    def _conditioning(self) -> list:
        self.conditionings += 1
        return self.models.conditioning(self.conditionings)

    def __call__(self, kind: str) -> Any:
        if kind not in self.made:
            raise NoInput(f"needs {kind}")
        return self.made[kind]()


def inputs_of(cls: type, model: Any, links: Links, given: Mapping[str, Any], is_moved: bool = False) -> dict[str, Any]:
    """Everything to call a node with: `given` inputs, widgets' defaults (moved ones where asked), and links."""
    groups = cls.INPUT_TYPES().values()  # some take whatever name they are asked for
    inputs = {name: value for name, value in given.items() if any(name in group for group in groups)}
    for place, name in enumerate(models_of(cls)):
        if name not in inputs:
            inputs[name] = links.models.third if place else model
    for name, (kind, options) in declared(cls).items():
        if name in inputs:
            continue
        if is_widget(kind):
            value = widget_default(name, kind, options)
            inputs[name] = moved(value, kind, options) if is_moved else value
        else:
            inputs[name] = links(kind)
    return inputs
