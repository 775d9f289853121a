"""Constants where a wire belongs: a prompt written by hand may hold them, and the host lets them pass."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache, wraps
from typing import Any

from comfy_api.latest import io

from ...rlg_core.errors import RLGError, shortened


def requiring_wires(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """`node`, whose `execute` raises `RLGError` for a constant in an input that only another node can fill."""
    original = node.execute.__func__
    names = list(inspect.signature(original).parameters)[1:]
    wires = cache(lambda: {i.id: i for i in node.define_schema().inputs if not isinstance(i, io.WidgetInput)})

    @wraps(original)
    def execute(cls: type, *values: Any, **named: Any) -> io.NodeOutput:
        _require_wires(wires(), dict(zip(names, values)) | named)
        return original(cls, *values, **named)

    node.execute = classmethod(execute)
    return node


def _require_wires(wires: Mapping[str, io.Input], values: Mapping[str, Any]) -> None:
    for name, given in wires.items():
        value, kind = values.get(name), str(given.get_io_type())
        if _is_constant(value, kind) and not (value is None and given.optional):
            raise RLGError(f"{name} is {shortened(value)}: expected a {kind} from another node.")


def _is_constant(value: Any, kind: str) -> bool:
    """Whether a JSON value stands for what a wire carries. Lists pass: conditionings and lists of values are some."""
    if isinstance(value, dict) and kind == "LATENT":
        return "samples" not in value
    return value is None or isinstance(value, (str, int, float, dict))
