"""What one architecture is made of at the smallest size that the hosts recognise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SAME = "the same names"
"""In place of diffusers' conversion: the host's layout is diffusers'."""

BY_RULES = "by the pack's own rules"
"""In place of diffusers' conversion where it has none. What the rules say is proven by `test_same_function`."""


@dataclass(frozen=True)
class Tiny:
    """One architecture: its diffusers class and geometry, and how the host's layout becomes diffusers'.

    `cls`: None where diffusers has no such model; its adapters then have the host's names.
    `to_diffusers`: diffusers' own conversion of an original checkpoint, by name; None: the host converts on load.
    `host`: the host's class and geometry where the host loads the original layout only.
    `shrunk`: what the host takes as given where it recognises the architecture, and is smaller here.
    """

    cls: str | None
    config: Mapping[str, Any]
    to_diffusers: str | None = None
    host: tuple[str, Mapping[str, Any]] | None = None
    prefix: str = "transformer"
    shrunk: Mapping[str, Any] = field(default_factory=dict)
