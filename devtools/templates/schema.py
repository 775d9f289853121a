"""What a ComfyUI tells of its nodes (`/object_info`), as the inputs and outputs that a workflow file lists."""

from dataclasses import dataclass
from typing import Any

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
AFTER_GENERATE = "fixed"


@dataclass(frozen=True)
class Input:
    """An input in its place, a widget or a socket; `extra` are values of widgets that the editor puts behind it."""

    name: str
    type: str
    is_widget: bool
    is_optional: bool
    is_multiline: bool
    default: Any
    extra: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A class of nodes."""

    title: str
    module: str
    inputs: tuple[Input, ...]
    outputs: tuple[tuple[str, str], ...]

    @property
    def widgets(self) -> tuple[Input, ...]:
        return tuple(given for given in self.inputs if given.is_widget)


def kinds(told: dict[str, Any]) -> dict[str, Kind]:
    """The classes that `/object_info` tells of, by name."""
    return {name: kind(info) for name, info in told.items()}


def kind(info: dict[str, Any]) -> Kind:
    """One class; required inputs stand before optional ones, as in the editor."""
    inputs = [
        read(name, info["input"][group][name], group == "optional")
        for group in ("required", "optional")
        for name in info["input_order"].get(group, [])
    ]
    outputs = tuple(zip(info["output_name"], info["output"], strict=True))
    return Kind(info["display_name"] or info["name"], info["python_module"], tuple(inputs), outputs)


def read(name: str, spec: list, is_optional: bool) -> Input:
    """One input; a list in the place of a type is an old way to write a choice."""
    options = spec[1] if len(spec) > 1 else {}
    choices = spec[0] if isinstance(spec[0], list) else options.get("options", [])
    named = "COMBO" if isinstance(spec[0], list) else spec[0]
    default = options.get("default", choices[0] if choices else {"STRING": ""}.get(named))
    extra = (AFTER_GENERATE,) * bool(options.get("control_after_generate")) + ("image",) * bool(
        options.get("image_upload")
    )
    is_widget = named in WIDGETS and not options.get("forceInput")
    return Input(name, named, is_widget, is_optional, bool(options.get("multiline")), default, extra)
