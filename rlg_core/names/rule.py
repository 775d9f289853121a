"""What a table of name rules is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .cuts import Leaf

Leaves = Mapping[str, Leaf]


@dataclass(frozen=True)
class Block:
    """A repeated part of a model.

    `host` and `source` are its prefixes on the host and in adapter files, with `#` for a number. `leaves` are the
    modules inside, or None if they have the same names in both.
    """

    host: str
    source: str
    leaves: Leaves | None


@dataclass(frozen=True)
class Architecture:
    """One architecture's names: what adapter files (diffusers) call the host's modules.

    `marks` are modules that, taken together, only this architecture has on the host.
    """

    name: str
    marks: tuple[str, ...]
    blocks: tuple[Block, ...]
    top: Leaves = field(default_factory=dict)
