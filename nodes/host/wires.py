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
    schema = cache(node.define_schema)

    @wraps(original)
    def execute(cls: type, *values: Any, **named: Any) -> io.NodeOutput:
        _require_wires(schema(), dict(zip(names, values)) | named)
        return original(cls, *values, **named)

    node.execute = classmethod(execute)
    return node


def _require_wires(schema: io.Schema, values: Mapping[str, Any]) -> None:
    for given in (given for given in schema.inputs if not isinstance(given, io.WidgetInput)):
        value, kind = values.get(given.id), str(given.get_io_type())
        items = value if schema.is_input_list and isinstance(value, list) else [value]
        for item in items:
            if _is_constant(item, kind) and not (item is None and given.optional):
                raise RLGError(f"{given.id} is {shortened(item)}: expected a {kind} from another node.")


def _is_constant(value: Any, kind: str) -> bool:
    """Whether a JSON value stands for what a wire carries."""
    if kind == "CONDITIONING":
        return not isinstance(value, list)
    if kind == "LATENT":
        return not isinstance(value, dict) or "samples" not in value
    return value is None or isinstance(value, (str, int, float, dict, list))
