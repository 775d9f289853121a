"""How an adapter's factors are scaled, and whether a config that says so is one of this adapter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .patterns import Patterns


@dataclass(frozen=True)
class Recipe:
    """How an adapter's factors are scaled: `scale = alpha / rank`, or `alpha / sqrt(rank)` for rsLoRA.

    `source` says where this was read. `kind` and `targets` tell which adapters it fits, as far as they are known, and
    `options` whatever else it says.
    """

    source: str
    alpha: float
    rank: int | None = None
    kind: str | None = None
    targets: str | tuple[str, ...] | None = None
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    rslora: bool = False
    given: bool = False
    """Whether the user gave it, which overrides what the files say."""
    options: Mapping[str, Any] = field(default_factory=dict)

    def alpha_of(self, module: str) -> float:
        number = self._alpha_patterns.find(module)
        return self.alpha if number is None else list(self.alpha_pattern.values())[number]

    def rank_of(self, module: str) -> int | None:
        number = self._rank_patterns.find(module)
        return self.rank if number is None else list(self.rank_pattern.values())[number]

    def scale(self, module: str, rank: int) -> float:
        return self.alpha_of(module) / (math.sqrt(rank) if self.rslora else rank)

    def misfit(self, kind: str, modules: Mapping[str, int | None]) -> str | None:
        """Why this recipe does not fit an adapter with these modules and ranks, or None if it fits."""
        if self.kind is not None and self.kind != kind:
            return f"it describes a {self.kind} adapter, the file holds {kind}"
        for module, rank in modules.items():
            expected = self.rank_of(module)
            if rank is not None and expected is not None and rank != expected:
                return f"it says rank {expected}, but {module} has rank {rank}"
            if not self._targets(module):
                return f"its target_modules do not name {module}"
        return None

    def _targets(self, module: str) -> bool:
        if self.targets is None or self.targets == "all-linear":
            return True
        if isinstance(self.targets, str):
            return self._target_pattern.find(module) is not None
        endings = {"." + module} | {module[at:] for at, character in enumerate(module) if character in "._"}
        return not endings.isdisjoint(self._target_endings)

    @cached_property
    def _alpha_patterns(self) -> Patterns:
        return Patterns(f"{self.source}, alpha_pattern", self.alpha_pattern, below_any_parent=True)

    @cached_property
    def _rank_patterns(self) -> Patterns:
        return Patterns(f"{self.source}, rank_pattern", self.rank_pattern, below_any_parent=True)

    @cached_property
    def _target_pattern(self) -> Patterns:
        return Patterns(f"{self.source}, target_modules", [str(self.targets)])

    @cached_property
    def _target_endings(self) -> frozenset[str]:
        """The last parts of the names of adapted modules, with dots and, as in kohya's files, with underscores."""
        names = self.targets or ()
        return frozenset(ending for name in names for ending in ("." + name, "_" + name.replace(".", "_")))
