"""Fields of node schemas that not every host knows."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

NEWER_SCHEMA_FIELDS = frozenset({"search_aliases", "essentials_category", "has_intermediate_output"})
"""0.3.75 does not know these fields of `io.Schema`, and raises on unknown ones."""


def known_fields(target: Callable[..., Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """`fields` for a call of `target`, without those that only newer hosts know."""
    known = inspect.signature(target).parameters
    return {name: value for name, value in fields.items() if name in known or name not in NEWER_SCHEMA_FIELDS}
