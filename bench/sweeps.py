"""How the cost of a step grows with resolution and with batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import measure
from .geometry import SMALL
from .pair import Pair
from .ways import EXACT_BATCHED, EXACT_SEQUENTIAL, PAPER, PATCHING, PLAIN

WAYS = (PLAIN, EXACT_BATCHED, EXACT_SEQUENTIAL, PAPER, PATCHING)


@dataclass(frozen=True)
class Sweep:
    """Seconds a step of each way, at each of `values` of what `axis` names."""

    axis: str
    values: tuple[int, ...]
    seconds: dict[str, list[float]]

    def ratios(self, name: str) -> list[float]:
        return [own / floor for own, floor in zip(self.seconds[name], self.seconds[PLAIN.name])]


def run(pair: Pair, sides: Sequence[int], batches: Sequence[int], rounds: int) -> list[Sweep]:
    """Both sweeps on the small stack: image tokens at batch 1, and batch at the stack's own size."""
    tokens = tuple(side * side // 4 for side in sides)
    return [
        _sweep(pair, "image tokens", tokens, [SMALL.sized(side=side) for side in sides], rounds),
        _sweep(pair, "batch", tuple(batches), [SMALL.sized(rows=rows) for rows in batches], rounds),
    ]


def _sweep(pair: Pair, axis: str, values: tuple[int, ...], geometries: Sequence, rounds: int) -> Sweep:
    points = [measure.step_seconds(pair.resized(geometry), WAYS, rounds, steps=2) for geometry in geometries]
    return Sweep(axis, values, {way.name: [point[way.name] for point in points] for way in WAYS})
