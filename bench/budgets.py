"""What each budget costs, and its error against the exact result, over seeds, scales and adapters of the demo pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch

from rlg_core.statistics import wilson

from . import ways
from .measure import counted_rows, quartiles, relative_error, timed
from .pair import Job, Pair

STEPS = 20
MODES = {
    **{f"base every {name} step": {"refresh_every": k} for name, k in (("2nd", 2), ("3rd", 3), ("4th", 4))},
    **{f"tolerance {limit:g}, at most 4": {"tolerance": limit, "refresh_every": 4} for limit in (0.02, 0.05)},
    "linearised": {"evaluate": "linearised"},
}
ONE_MORE = "exact, one step more"
"""What the sampler's own step error does to exact RLG: a budget cannot be asked for more than this."""

FAR = 0.1
"""A latent this far from the exact one is another picture."""


@dataclass
class Errors:
    """Of one mode at one scale: `cost` in model evaluations over plain CFG's, `error` relative to the exact latent."""

    cost: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)

    @property
    def median_cost(self) -> float:
        return quartiles(self.cost)[0]

    @property
    def median(self) -> float:
        return quartiles(self.error)[0]

    @property
    def tail(self) -> float:
        """The 90th percentile."""
        return float(torch.tensor(self.error).quantile(0.9))

    @property
    def far(self) -> tuple[float, float, float]:
        """The share of runs that ended far off, and its 95 % interval."""
        hits = sum(error > FAR for error in self.error)
        return hits / len(self.error), *wilson(hits, len(self.error))


def run(pairs: Sequence[Pair], scales: Sequence[float], seeds: int) -> dict[float, dict[str, Errors]]:
    """By scale and mode."""
    found = {scale: {mode: Errors() for mode in (*MODES, ONE_MORE)} for scale in scales}
    for pair in pairs:
        samples = {mode: ways.shared(pair, **inputs) for mode, inputs in MODES.items()}
        exact = ways.shared(pair)
        for scale, seed in product(scales, range(seeds)):
            job = Job(STEPS, scale, seed)
            reference = timed(exact, job)[0]
            more = timed(exact, replace(job, steps=STEPS + 1))[0]
            found[scale][ONE_MORE].cost.append(2.0 * (STEPS + 1) / STEPS)
            found[scale][ONE_MORE].error.append(relative_error(more, reference))
            for mode, sample in samples.items():
                with counted_rows(pair.networks()) as rows:
                    latent = timed(sample, job)[0]
                found[scale][mode].cost.append(sum(rows) / (2 * STEPS))
                found[scale][mode].error.append(relative_error(latent, reference))
    return found
