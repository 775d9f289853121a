"""`--choose-w`: successive halving of the scales, over more and more prompts and seeds.

Every scale that is left is judged on the same units, prompt by prompt and from the same noise (common random numbers).
A round adds units and then drops the worse half of the scales, so that most pictures are made of the best ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

FEWEST = 4
"""Units that a scale is judged on at least."""


@dataclass(frozen=True)
class Round:
    """The units from `start` to `end` are run at the best `keep` scales so far."""

    start: int
    end: int
    keep: int


def rounds(scales: int, units: int) -> Iterator[Round]:
    """Yield the rounds: half of the scales and twice the units from one to the next; two scales see all units."""
    count = max(1, math.ceil(math.log2(scales))) if scales > 1 else 1
    start = 0
    for k in range(count):
        end = min(units, max(FEWEST, math.ceil(units / 2 ** (count - 1 - k))))
        if end > start:
            yield Round(start, end, math.ceil(scales / 2**k))
        start = max(start, end)


def best(scores: Mapping[float, Sequence[float]], keep: int) -> list[float]:
    """Return the `keep` scales of the highest mean score, in the order of the scales."""
    ranked = sorted(scores, key=lambda scale: (-sum(scores[scale]) / len(scores[scale]), abs(scale)))
    return sorted(ranked[:keep])


def saved(runs: int, grid: int) -> str:
    """Return what a search has saved: `runs` of the `grid` of every unit at every scale."""
    return f"{runs} of the {grid} pairs of unit and scale of the full grid: {1 - runs / grid:.0%} saved."
