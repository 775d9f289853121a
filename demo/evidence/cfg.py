"""What RLG adds to the best CFG: scenes judged over a grid of CFG scales and w, chosen on some noise, told on other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from rlg_core.report.plot import Curve, Panel, number

from .findings import JUDGED
from .measure import Bench
from .page import PLUS_MINUS, TITLES, Figures, signed, table, told
from .scores import CORRECT
from .sizes import Sizes
from .statistics import Estimate, estimate, paired
from .ways import rlg

CFGS = (1.0, 1.5, 2.0, 3.0)
SCALES = (0.0, 1.0, 2.0)
METRICS = (JUDGED, CORRECT)


def measure(bench: Bench, sizes: Sizes) -> dict:
    """{"adapter", "seeds", "prompts", "cells"}: the means of each prompt per CFG scale and w.

    They are taken on each half of the seeds separately. The adapter is the one for
    composition, or where there is none the first.
    """
    experts, cells, seeds = bench.pair.experts, [], sizes.seeds
    adapter = JUDGED if JUDGED in experts else next(iter(experts))
    for cfg in CFGS:
        for w in SCALES:
            values = bench(rlg(adapter, w, cfg), seeds).values
            means = {name: _by_prompt(values[name], len(bench.pair.prompts)) for name in METRICS}
            cells.append({"cfg": cfg, "w": w, "means": means})
    return {"adapter": adapter, "seeds": seeds, "prompts": len(bench.pair.prompts), "cells": cells}


def _by_prompt(values: list[float], prompts: int) -> list[list[float]]:
    """The means of each prompt on the first half of the seeds and on the second, from values seed by seed."""
    seeds = np.reshape(values, (-1, prompts))
    half = len(seeds) // 2
    return [seeds[:half].mean(0).tolist(), seeds[half:].mean(0).tolist()]


def evaluations(cell: dict) -> int:
    """Rows of the batch that a step evaluates per picture: one or two models, one or two prompts."""
    return (1 if cell["w"] in (0.0, 1.0) else 2) * (1 if cell["cfg"] == 1.0 else 2)


def best(cells: Iterator[dict]) -> dict:
    """The cell with the highest score on the first half of the seeds."""
    return max(cells, key=lambda cell: np.mean(cell["means"][JUDGED][0]))


def fresh(cell: dict, name: str = JUDGED) -> Estimate:
    """The mean on the second half of the seeds, with an interval over prompts."""
    return estimate(cell["means"][name][1])


def gain(cell: dict, other: dict, name: str = JUDGED) -> Estimate:
    """How much higher `cell` is than `other` on the second half, paired by prompt."""
    return paired(cell["means"][name][1], other["means"][name][1])


def report(data: dict, figures: Figures) -> list[str]:
    cells = data["cells"]
    alone = best(cell for cell in cells if cell["w"] == 0)
    tuned = best(cell for cell in cells if cell["w"] == 1)
    guided = best(cell for cell in cells if cell["w"] not in (0, 1))
    one = best(cell for cell in cells if cell["w"] not in (0, 1) and cell["cfg"] == 1)
    pictures = data["seeds"] * data["prompts"]
    return [
        "## What RLG adds to the best CFG",
        "",
        f"The {data['adapter']} adapter, {data['prompts']} prompts, {pictures} pictures for each CFG scale and w. The "
        "best cell of each kind is chosen on the first half of the seeds; the figures are those of the second half, "
        "with intervals over prompts.",
        "",
        f"- Base at its best CFG, {number(alone['cfg'])}: {_told(alone)}.",
        f"- RL model (w = 1) at its best CFG, {number(tuned['cfg'])}: {_told(tuned)}; "
        f"{_compared(tuned, alone, 'the base there')}, at the same cost.",
        f"- RLG at its best, CFG {number(guided['cfg'])} and w = {number(guided['w'])}: {_told(guided)}; "
        f"{_compared(guided, tuned, 'the RL model at its best CFG')}, for "
        f"{evaluations(guided)} evaluations per step in place of {evaluations(tuned)}.",
        f"- RLG without CFG, w = {number(one['w'])}, which costs what CFG costs: {_told(one)}; "
        f"{_compared(one, alone, 'the base at its best CFG')}, {_compared(one, tuned, 'the RL model at its')}.",
        *_tables(cells),
        *_plots(cells, figures),
    ]


def _told(cell: dict) -> str:
    return f"score {told(asdict(fresh(cell)))}, {told(asdict(fresh(cell, CORRECT)))} of the scenes fully correct"


def _compared(cell: dict, other: dict, named: str) -> str:
    difference = gain(cell, other)
    word = {1: "higher than", -1: "lower than", 0: "no different within error from"}[difference.sign]
    return f"{word} {named} ({signed(asdict(difference))})"


def _tables(cells: list[dict]) -> list[str]:
    lines = []
    for name in METRICS:
        rows = []
        for cfg in dict.fromkeys(cell["cfg"] for cell in cells):
            row = [cell for cell in cells if cell["cfg"] == cfg]
            rows.append([cfg, *(f"{told(asdict(_all(c, name)))} ({evaluations(c)})" for c in row)])
        head = ["CFG", *(f"w = {number(w)}" for w in SCALES)]
        lines += ["", f"{TITLES[name]}, all seeds (evaluations per step in brackets):", *table(head, rows)]
    return lines


def _all(cell: dict, name: str) -> Estimate:
    return estimate(np.mean(cell["means"][name], axis=0))


def _plots(cells: list[dict], figures: Figures) -> list[str]:
    panels = []
    for name in METRICS:
        curves = []
        for w in SCALES:
            column = [cell for cell in cells if cell["w"] == w]
            found = [_all(cell, name) for cell in column]
            xs = [cell["cfg"] for cell in column]
            curves.append(Curve(xs, [e.mean for e in found], f"w = {number(w)}", [e.half for e in found]))
        panels.append(Panel(curves, TITLES[name], "CFG", ""))
    return figures.plot("cfg", f"composition over CFG and w: mean {PLUS_MINUS} 95 % over prompts", panels)
