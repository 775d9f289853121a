"""Units of work: one prompt and seed with all its scales, under a name made of all that its pictures depend on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from .graph import canonical
from .recipe import Recipe
from .spec import PROMPT, SEED, Spec


@dataclass(frozen=True)
class Unit:
    """One prompt and seed in one setting, with its scales.

    `key` is a hash of the graphs, their values and the content of the files that they load. Units of one `loads` need
    the same files. `beside` is what its rows set, {"node.input": value}.
    """

    key: str
    values: Mapping[str, Any]
    scales: tuple[float, ...]
    loads: tuple = ()
    beside: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """A folder name for its pictures, which a person can read too."""
        prompt = re.sub(r"[^a-z0-9]+", "-", str(self.values[PROMPT]).lower())[:48].strip("-")
        return f"{prompt}-seed-{self.values[SEED]}-{self.key[:16]}"

    def __str__(self) -> str:
        others = [f"{name} {value}" for name, value in self.values.items() if name not in (PROMPT, SEED)]
        return ", ".join([str(self.values[PROMPT])[:40], f"seed {self.values[SEED]}", *others])


class Plan:
    """All units of a sweep; `files` are the identities of the files that its values may name."""

    def __init__(self, recipe: Recipe, spec: Spec, files: Mapping[str, str]):
        self.recipe, self.spec, self.files = recipe, spec, files

    def units(self, scales: Sequence[float] | None = None) -> list[Unit]:
        """Return every unit; all prompts of the first seed come before those of the second."""
        return [self.unit(values, scales or self.spec.scale.values) for values in self.combinations()]

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Yield the values of every unit: setting by setting, in each seed by seed, in each prompt by prompt."""
        axes = sorted(self.spec.axes, key=lambda axis: {SEED: 1, PROMPT: 2}.get(axis.name, 0))
        for values in product(*(axis.values for axis in axes)):
            yield dict(zip((axis.name for axis in axes), values))

    def by_setting(self) -> list[list[dict[str, Any]]]:
        """Return the values of every unit, a list for each setting."""
        found: dict[tuple, list[dict[str, Any]]] = {}
        for values in self.combinations():
            found.setdefault(tuple(values[axis.name] for axis in self.spec.settings), []).append(values)
        return list(found.values())

    def unit(self, values: Mapping[str, Any], scales: Sequence[float]) -> Unit:
        graphs = [graph for graph, _ in self.recipe.graphs(values, scales)]
        named = {
            value
            for graph in graphs
            for node in graph.values()
            for value in node["inputs"].values()
            if isinstance(value, str)
        }
        files = {name: self.files[name] for name in named & self.files.keys()}
        names = self.spec.names(values)  # rows may differ in nothing else; without rows, keys are those of before
        key = hashlib.sha256(canonical([graphs, files, *([names] if names else [])]).encode()).hexdigest()
        return Unit(key, dict(values), tuple(scales), tuple(sorted(files)), self.spec.beside(values))
