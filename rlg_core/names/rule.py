"""What a table of name rules is made of."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from .cuts import Leaf
from .spelling import every_spelling

Leaves = Mapping[str, Leaf]


@dataclass(frozen=True)
class Block:
    """A repeated part of a model.

    `host` and `source` are its prefixes on the host and in adapter files, with `#` for a number. `leaves` are the
    modules inside.
    """

    host: str
    source: str
    leaves: Leaves


@dataclass(frozen=True)
class Architecture:
    """One architecture's names: what adapter files (diffusers) call the host's modules.

    `marks` are modules that, taken together, only this architecture has on the host, if it `lacks` the others.
    `unchanged` are patterns of host names that adapter files use as they are. `signs` are patterns of names in adapter
    files of an architecture whose map the host hands in.
    """

    name: str
    marks: tuple[str, ...]
    blocks: tuple[Block, ...] = ()
    top: Leaves = field(default_factory=dict)
    unchanged: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()

    def is_of(self, modules: Collection[str]) -> bool:
        """Whether a host model with these modules is of this architecture."""
        return all(mark in modules for mark in self.marks) and not any(name in modules for name in self.lacks)

    def has(self, module: str) -> bool:
        """Whether adapter files for this architecture name a module so, in dots or in underscores."""
        return any(self._pattern.fullmatch(name) for name in every_spelling(module))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        patterns = (name.replace(".", "[._]").replace("#", r"\d+") for name in self._names())
        signs = (sign.replace(r"\.", "[._]") for sign in (*self.unchanged, *self.signs))
        return re.compile("|".join((*patterns, *signs)))

    def _names(self) -> Iterator[str]:
        for host, sources in self.top.items():
            yield from (host, *sources)
        for block in self.blocks:
            for host, sources in block.leaves.items():
                yield f"{block.host}.{host}"
                yield from (f"{block.source}.{source}" for source in sources)
