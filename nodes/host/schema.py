"""Node schemas that both supported hosts accept."""

from __future__ import annotations

import inspect
from typing import Any

from comfy_api.latest import io

CATEGORY = "advanced/guidance/RLG"
NEWER_HOSTS_ONLY = frozenset({"search_aliases", "essentials_category"})


def schema(**fields: Any) -> io.Schema:
    """An `io.Schema` in this pack's category, without the fields that ComfyUI 0.3.75 does not know yet."""
    known = inspect.signature(io.Schema).parameters
    kept = {name: value for name, value in fields.items() if name in known or name not in NEWER_HOSTS_ONLY}
    return io.Schema(category=CATEGORY, **kept)
