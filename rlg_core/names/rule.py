"""What a table of name rules is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .cuts import Leaf

Leaves = Mapping[str, Leaf]


@dataclass(frozen=True)
class Block:
    """A repeated part of a model: `host` and `source` are its prefixes, `#` a number; `leaves` the modules inside.

    `leaves` None: the modules inside are called the same.
    """

    host: str
    source: str
    leaves: Leaves | None


@dataclass(frozen=True)
class Architecture:
    """One architecture's names: how the host's modules are called in adapter files (diffusers' names).

    `marks`: modules that together only this architecture has on the host.
    """

    name: str
    marks: tuple[str, ...]
    blocks: tuple[Block, ...]
    top: Leaves = field(default_factory=dict)
