"""Implicit reward (RLG Implicit Reward, no reward model) against the true reward."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import torch

from rlg_core.report.plot import Curve, Panel
from rlg_core.statistics import Estimate, independent

from .measure import Bench
from .page import TITLES, Figures, listed, table, told, yes
from .pair import SEED
from .scores import score
from .sizes import Sizes
from .statistics import rank_correlation
from .ways import Expert, rlg

SOURCES = {"the base's pictures": (0.0,), "pictures at w = 0, 1 and 2": (0.0, 1.0, 2.0)}
NOISE_SEED = 7
INTRODUCTION = (
    "Rank correlation (Spearman) of RLG Implicit Reward, which knows no reward, with the reward the adapter was "
    "trained on, within each prompt; mean over prompts, intervals for other prompts:"
)
RANKED_PROMPTS = 12


def measure(bench: Bench, sizes: Sizes) -> dict:
    """{adapter: {"reward", "points" {source: [[true, implicit] of a prompt's pictures]}}}."""
    mains = [e for e in bench.pair.experts.values() if e.is_main]
    what = f"implicit reward, {sizes.ranked} pictures, {sizes.draws} draws,"
    points = {e: bench.kept(f"{what} {e.name}", [e.name], lambda e=e: _points(bench, sizes, e)) for e in mains}
    return {e.name: {"reward": e.reward} | found for e, found in points.items()}


def _points(bench: Bench, sizes: Sizes, expert: Expert) -> dict:
    """`ranked` pictures of each of a few prompts."""
    return {"points": {source: _ranked(bench, sizes, expert, scales) for source, scales in SOURCES.items()}}


def _ranked(bench: Bench, sizes: Sizes, expert: Expert, scales: tuple[float, ...]) -> list[list[list[float]]]:
    pair = bench.pair
    prompts = slice(0, len(pair.prompts), math.ceil(len(pair.prompts) / RANKED_PROMPTS))
    asked, conditioning = pair.prompts[prompts], pair.together(prompts)
    true, implicit = [], []
    for k in range(sizes.ranked):
        latents = pair.latents(rlg(expert.name, scales[k % len(scales)]), SEED + k, prompts)
        true.append(score(pair.decoded(latents), asked)[expert.reward])
        with torch.inference_mode():
            models = (pair.base, pair.rl_model(expert.name))
            implicit.append(
                pair.node("RLGImplicitReward", *models, conditioning, {"samples": latents}, sizes.draws, NOISE_SEED)
            )
    return np.stack([np.array(true), np.array(implicit)], -1).swapaxes(0, 1).tolist()


def _within(groups: list) -> Estimate:
    """Mean over prompts of the rank correlation within a prompt, of those where both rewards vary."""
    found = [rank_correlation(*zip(*group)) for group in groups]
    return independent([value for value in found if not math.isnan(value)])


def report(data: dict, figures: Figures) -> list[str]:
    lines = ["## Implicit reward against the true reward", "", INTRODUCTION]
    rows, said, panels = [], [], []
    for name, part in data.items():
        found = [_within(groups) for groups in part["points"].values()]
        groups = next(iter(part["points"].values()))
        rows.append([name, f"{len(groups)} x {len(groups[0])}", *(told(asdict(e), 2) for e in found)])
        answers = listed(f"{source} {yes(e.sign == 1)}" for source, e in zip(SOURCES, found))
        said.append(f"- {name}: ranks as the true reward does, better than chance: {answers}.")
        panels.append(_panel(name, part))
    if not panels:
        return [*lines, "", "Needs an adapter."]
    title = "implicit against true reward, a dot a picture, prompt means removed"
    return [
        *lines,
        *table(["adapter", "prompts x pictures", *SOURCES], rows),
        *said,
        *figures.plot("implicit", title, panels),
    ]


def _panel(name: str, part: dict) -> Panel:
    curves = []
    for source, groups in reversed(part["points"].items()):
        points = np.concatenate([np.array(g) - np.array(g).mean(0) for g in groups])
        curves.append(Curve(points[:, 0].tolist(), (1000 * points[:, 1]).tolist(), source, joined=False))
    return Panel(curves, name, f"{TITLES[part['reward']]}, less the prompt's mean", "implicit x 1000")
