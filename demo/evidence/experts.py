"""Two experts at once, on a grid of weights: base + a (rl_1 - base) + b (rl_2 - base)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations

import numpy as np

from rlg_core.report.plot import Curve, Panel, number
from rlg_core.resampling import front, on_front

from .measure import Bench
from .page import TITLES, Figures, read, signed, summary, table, told, yes
from .scores import CORRECT, SHIFT
from .sizes import Sizes
from .ways import Expert, Way, constant

SURE = 0.95
PREFERRED = ({"jpeg", "composition"}, {"brightness", "jpeg"})
"""Compressibility deletes what composition wants: the pair with the plainest conflict comes first."""


def measure(bench: Bench, sizes: Sizes) -> dict:
    """{"names", "rewards", "cells"}: a cell for each (a, b) of the grid; empty with less than two adapters."""
    chosen = _chosen([e for e in bench.pair.experts.values() if e.is_main])
    if chosen is None:
        return {}
    names, rewards = [e.name for e in chosen], [e.reward for e in chosen]
    base, cells, means = bench(Way(), sizes.few), [], []
    for a in sizes.grid:
        for b in sizes.grid:
            outcome = bench(_mixed(names, (a, b)), sizes.few)
            over = {n: asdict(outcome.over(base, n)) for n in outcome.values}
            means.append([outcome.means(reward) for reward in rewards])
            cells.append({"weights": [a, b], "values": summary(outcome), "over_base": over})
    return {"names": names, "rewards": rewards, "cells": cells, "stays": on_front(np.array(means)).tolist()}


def _chosen(experts: Sequence[Expert]) -> tuple[Expert, Expert] | None:
    pairs = list(combinations(experts, 2))
    wanted = [pair for rewards in PREFERRED for pair in pairs if {e.reward for e in pair} == rewards]
    return next(iter([*wanted, *pairs]), None)


def _mixed(names: Sequence[str], weights: Sequence[float]) -> Way:
    return Way(tuple((name, constant(w)) for name, w in zip(names, weights) if w))


def report(data: dict, figures: Figures) -> list[str]:
    lines = ["## Two experts at once", ""]
    if not data:
        return [*lines, "Needs two adapters."]
    (one, two), (first, second), cells = data["names"], data["rewards"], data["cells"]
    points = [tuple(cell["values"][r]["mean"] for r in (first, second)) for cell in cells]
    best = sorted(front(points), key=points.__getitem__)
    head = [
        f"w of {one}",
        f"w of {two}",
        TITLES[first],
        TITLES[second],
        TITLES[CORRECT],
        TITLES[SHIFT],
        "stays on the front",
    ]
    body = [
        [*cells[k]["weights"], *(told(cells[k]["values"][n]) for n in (first, second, CORRECT, SHIFT)), _stays(data, k)]
        for k in best
    ]
    lines += [f"`{one}` and `{two}` on a grid of weights; the Pareto front of their two rewards:", *table(head, body)]
    lines += [f"- {sentence}" for sentence in _sentences(data, best)]
    panel = Panel(_curves(data, points, best), "every pair of weights", TITLES[first], TITLES[second])
    return [*lines, *figures.plot("experts", "rewards of two experts at all pairs of weights", [panel], 420)]


def _stays(data: dict, k: int) -> str:
    """In how many resamples a point of the front is on it; below 95 % it may be there by chance."""
    if "stays" not in data:
        return "not resampled"
    share = data["stays"][k]
    return f"{share:.0%}" + ("" if share >= SURE else ", changes places")


def _sentences(data: dict, best: list[int]) -> list[str]:
    (one, two), rewards, cells = data["names"], data["rewards"], data["cells"]
    mixed = [k for k in best if all(cells[k]["weights"])]
    both = next((c for c in cells if c["weights"] == [1.0, 1.0]), cells[-1])
    gains = [both["over_base"][r] for r in rewards]
    at_both, risen = _weights(both), all(read(gain).sign == 1 for gain in gains)
    changes = ", ".join(f"{TITLES[r]} {signed(gain)}" for r, gain in zip(rewards, gains))
    said = [
        f"{len(mixed)} of the {len(best)} points on the front use both experts.",
        f"At weights {at_both} both rewards are above the base's beyond error: {yes(risen)} ({changes}).",
    ]
    for k, (name, reward) in enumerate(zip((one, two), rewards)):
        own = [c for c in cells if not c["weights"][1 - k]]
        top, alone = (max(which, key=lambda c: c["values"][reward]["mean"]) for which in (cells, own))
        said.append(
            f"The highest {TITLES[reward]} of the grid is {told(top['values'][reward])}, at weights {_weights(top)}; "
            f"with `{name}` alone it is {told(alone['values'][reward])}, at {_weights(alone)}."
        )
    for k, (name, reward) in enumerate(zip((one, two), reversed(rewards))):
        alone = [c for c in cells if c["weights"][k] and not c["weights"][1 - k]]
        strongest = max(alone, key=lambda c: c["weights"][k])
        scale, change = number(strongest["weights"][k]), signed(strongest["over_base"][reward])
        said.append(f"`{name}` alone at w = {scale} changes the other's reward, {TITLES[reward]}, by {change}.")
    return said


def _weights(cell: dict) -> str:
    return " and ".join(map(number, cell["weights"]))


def _curves(data: dict, points: list[tuple[float, float]], best: list[int]) -> list[Curve]:
    def curve(which: list[int], label: str, joined: bool) -> Curve:
        return Curve([points[k][0] for k in which], [points[k][1] for k in which], label, joined=joined)

    weights = [cell["weights"] for cell in data["cells"]]
    alone = [[k for k, w in enumerate(weights) if not w[1 - index]] for index in (0, 1)]
    mixed = [k for k, w in enumerate(weights) if all(w)]
    return [
        curve(best, "front", True),
        *(curve(which, f"{name} alone", True) for which, name in zip(alone, data["names"])),
        curve(mixed, "both", False),
    ]
