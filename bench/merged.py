"""Several experts at the price of one: `experts: merged` against the exact combination, over a grid of weights."""

from __future__ import annotations

from itertools import combinations

import torch

from .demo_pair import Demo, errors, percent
from .host import say
from .report import table

TITLE = "Merged experts"
CFG, STEPS, PROMPTS, SEEDS = 2.0, 20, 6, 2
LEAST = 0.05
"""The least spread of a reward that counts: a few right scenes in a row have none."""
PAIRS = ((0.5, 0.5), (1.0, 1.0), (1.5, 0.5), (2.0, 1.0), (2.0, 2.0), (1.5, -0.5))
TRIPLES = ((0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (2.0, 1.0, 0.5), (1.5, 1.5, 1.5))
HOW = """The demo pair, CFG {cfg:g}, {steps} Euler steps, {count} pictures per row ({prompts} prompts, {seeds} seeds,
all pairs of adapters). Error of each picture's latent relative to the exact one: median, 90th percentile, worst.
*Rewards*: the mean difference of the experts' own rewards from the exact pictures', in standard deviations of the exact
pictures' reward. Evaluations over plain CFG's: exact 3 or 4, merged 2, linearised 1."""


def run() -> str:
    demo = Demo(PROMPTS)
    names = [expert.name for expert in demo.adapters()]
    rows = [row(demo, list(combinations(names, 2)), weights) for weights in PAIRS]
    rows += [row(demo, [tuple(names)], weights) for weights in TRIPLES]
    count = len(list(combinations(names, 2))) * PROMPTS * SEEDS
    head = ("weights", "pictures", "merged: error", "linearised: error", "merged: rewards", "linearised: rewards")
    how = HOW.format(cfg=CFG, steps=STEPS, count=f"{count} or {PROMPTS * SEEDS}", prompts=PROMPTS, seeds=SEEDS)
    return f"{how}\n\n{table(head, rows)}"


def row(demo: Demo, chosen: list[tuple[str, ...]], weights: tuple[float, ...]) -> tuple[str, ...]:
    say(f"merged experts: weights {weights}")
    found: dict[str, list] = {"merged": [], "linearised": []}
    moved: dict[str, list] = {"merged": [], "linearised": []}
    for names in chosen:
        scales = dict(zip(names, weights))
        exact = demo.latents(demo.guided(scales), CFG, STEPS, range(SEEDS))
        before = demo.scored(exact)
        for name, budget in (("merged", {"experts": "merged"}), ("linearised", {"evaluate": "linearised"})):
            latents = demo.latents(demo.guided(scales, budget), CFG, STEPS, range(SEEDS))
            after = demo.scored(latents)
            found[name].append(errors(latents, exact))
            for reward in {demo.experts[expert].reward for expert in names}:
                deviation = float(torch.tensor(before.values[reward]).std())
                moved[name].append(after.over(before, reward).mean / max(deviation, LEAST))
    told = {name: f"{sum(values) / len(values):+.3f}" for name, values in moved.items()}
    error = {name: torch.cat(values) for name, values in found.items()}
    return (
        ", ".join(f"{weight:g}" for weight in weights),
        str(len(error["merged"])),
        percent(error["merged"]),
        percent(error["linearised"]),
        told["merged"],
        told["linearised"],
    )
