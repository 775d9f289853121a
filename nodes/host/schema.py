"""Node schemas in this pack's category."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from comfy_api.latest import io

from ...rlg_core.sweep import HIGHEST, LOWEST
from .compat import known_fields

CATEGORY = "RLG"
SCALE = {"min": LOWEST, "max": HIGHEST, "step": 0.01, "round": 0.001}
"""The limits of every input for a scale w."""


def schema(
    *,
    advanced: Iterable[str] = (),
    script: Mapping[str, Mapping[str, Any]] | None = None,
    shows: bool = False,
    **fields: Any,
) -> io.Schema:
    """An `io.Schema` in this pack's category, which every supported host accepts.

    `advanced` names the inputs that few people need, which editors fold away. `script` holds what the pack's own script
    in the editor (`web/rlg.js`) is told of an input. A node that `shows` something on itself does so too where its
    result is an earlier run's, as far as the host can.
    """
    made = io.Schema(category=CATEGORY, **known_fields(io.Schema, fields | {"has_intermediate_output": shows}))
    inputs = {given.id: given for given in made.inputs}
    # Entries for the editor: the inputs' own fields for them are new since 0.30.
    entries = {name: {"advanced": True} for name in advanced}
    for name, told in (script or {}).items():
        entries[name] = {**entries.get(name, {}), **told}
    for name, told in entries.items():
        inputs[name].extra_dict = {**inputs[name].extra_dict, **told}
    return made
