"""What each budget is off, over the adapters and the full checkpoint, scales, steps and samplers."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from .demo_pair import Demo, errors, percent
from .host import say
from .report import table

TITLE = "Budgets over scales, steps and samplers"
CFG, PROMPTS, SEEDS = 2.0, 3, 1
SCALES = (0.5, 1.5, 2.0, 4.0)
RUNS = tuple(product((16, 20, 30), ("euler", "dpmpp_2m")))
MODES = {
    "base every 2nd step": {"refresh_every": 2},
    "base every 3rd step": {"refresh_every": 3},
    "base every 4th step": {"refresh_every": 4},
    "tolerance 0.02, at most 4": {"tolerance": 0.02, "refresh_every": 4},
    "linearised": {"evaluate": "linearised"},
}
OTHER = 0.1
"""A relative error above which it is another picture."""
HOW = """The demo pair ({experts}), CFG {cfg:g}, {pictures} pictures (one of each prompt) per expert, scale and run,
in one batch. Runs (steps and sampler): {runs}. Error of each picture's latent relative to the exact one's: median, 90th
percentile, worst. *Another picture*: the share with an error above {other:.0f} %. `linearised` needs an adapter.
Evaluations over plain CFG's (exact: 2): 1.5, 1.3, 1.25, 1.65 to 1.9 (of one picture: in a batch the worst picture
decides, and the batch runs as a whole) and 1."""
Found = dict[str, dict[tuple[str, float, int, str], Tensor]]


def run() -> str:
    demo = Demo(PROMPTS)
    found: Found = {mode: {} for mode in MODES}
    for name in demo.experts:
        for mode, cells in of_expert(demo, name).items():
            found[mode] |= cells
    return rendered(found)


def of_expert(demo: Demo, name: str) -> Found:
    """The errors of each mode, by (expert, scale, steps, sampler)."""
    found: Found = {mode: {} for mode in MODES}
    for scale, (steps, sampler) in product(SCALES, RUNS):
        say(f"budgets: {name}, w = {scale:g}, {steps} steps, {sampler}")
        exact = demo.latents(demo.guided({name: scale}), CFG, steps, range(SEEDS), sampler)
        for mode, inputs in MODES.items():
            if mode == "linearised" and demo.experts[name].is_checkpoint:
                continue
            latents = demo.latents(demo.guided({name: scale}, inputs), CFG, steps, range(SEEDS), sampler)
            found[mode][name, scale, steps, sampler] = errors(latents, exact)
    return found


def rendered(found: Found) -> str:
    experts = list(dict.fromkeys(name for cells in found.values() for name, *_ in cells))
    parts = [
        by("scale", found, 1, [(f"w = {scale:g}", scale) for scale in SCALES]),
        by("steps", found, 2, [(f"{steps} steps", steps) for steps in sorted({steps for steps, _ in RUNS})]),
        by("sampler", found, 3, [(sampler, sampler) for sampler in dict.fromkeys(sampler for _, sampler in RUNS)]),
        by("expert", found, 0, [(name, name) for name in experts]),
    ]
    runs = ", ".join(f"{steps} {sampler}" for steps, sampler in RUNS)
    how = HOW.format(experts=", ".join(experts), cfg=CFG, pictures=PROMPTS * SEEDS, other=100 * OTHER, runs=runs)
    return "\n\n".join([how, *parts])


def by(what: str, found: Found, place: int, columns: list[tuple[str, object]]) -> str:
    """A table of the modes, with a column for each value that a cell has at `place`."""
    head = (f"mode, by {what}", *(f"{title}: error; another picture" for title, _ in columns))
    rows = []
    for mode, cells in found.items():
        parts = ([error for cell, error in cells.items() if cell[place] == value] for _, value in columns)
        rows.append((mode, *(told(torch.cat(part)) if part else "" for part in parts)))
    return table(head, rows)


def told(values: Tensor) -> str:
    return f"{percent(values)}; {100 * float((values > OTHER).float().mean()):.0f} %"
