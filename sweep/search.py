"""Which units `--choose-w` runs next, from the scores of those that are done."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from devtools.console import Failure

from . import choose
from .plan import Plan, Unit
from .spec import PROMPT, SEED
from .store import Store


@dataclass
class Search:
    """Successive halving in one setting: its combinations, and the scales that are left."""

    plan: Plan
    store: Store
    combinations: list[dict[str, Any]]
    keys: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.scales = list(self.plan.spec.scale.values)
        self.rounds = list(choose.rounds(len(self.scales), len(self.combinations)))
        self.combinations = shuffled(self.combinations)

    def units(self, turn: int) -> list[Unit]:
        """Return the units of a round, at the scales that the rounds before have left."""
        if turn >= len(self.rounds):
            return []
        now = self.rounds[turn]
        if turn:
            self.scales = choose.best(self.scores(), now.keep)
        units = [self.plan.unit(values, self.scales) for values in self.combinations[now.start : now.end]]
        self.keys += [unit.key for unit in units]
        return units

    def scores(self) -> dict[float, list[float]]:
        """Return the scores of the scales that are left, on the units so far."""
        reward, there = self.plan.spec.rewards[0].name, self.store.done()
        found: dict[float, list[float]] = {scale: [] for scale in self.scales}
        for row in self.store.rows([key for key in self.keys if key in there], ["scale", reward]):
            if row["scale"] in found:
                found[row["scale"]].append(row[reward])
        if not all(found.values()):
            raise Failure("No unit of a round of --choose-w succeeded: there is nothing to choose by.")
        return found


def shuffled(combinations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return combinations in an order in which the first few stand for all: any prompts, each once before any twice."""
    prompts = sorted({values[PROMPT] for values in combinations})
    random.Random(0).shuffle(prompts)
    seeds = list(dict.fromkeys(values[SEED] for values in combinations))
    return sorted(combinations, key=lambda values: (seeds.index(values[SEED]), prompts.index(values[PROMPT])))
