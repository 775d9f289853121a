"""Node schemas in this pack's category."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .compat import known_fields

CATEGORY = "advanced/guidance/RLG"


def schema(**fields: Any) -> io.Schema:
    """An `io.Schema` in this pack's category, which every supported host accepts."""
    return io.Schema(category=CATEGORY, **known_fields(io.Schema, fields))
