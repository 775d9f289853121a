"""What programs say of pictures: a number for each, from which all statistics are made."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from demo import rewards
from rlg_core.pictures import diversity, picture_distance, structure_diversity
from rlg_core.rewards import scenes as judge
from rlg_core.rewards.scenes import Prompt

CORRECT, SHIFT = "correct", "shift"
DIVERSITY, STRUCTURE = "diversity", "structure"
DIGITS = 4


def score(pictures: Tensor, prompts: Sequence[Prompt]) -> dict[str, list[float]]:
    """Every reward and correctness of pictures (B, 3, H, W) in [0, 1]; the judge looks once."""
    found = judge.find(pictures.movedim(1, -1))
    values = {name: reward(pictures, prompts) for name, reward in rewards.REWARDS.items() if name != "composition"}
    values["composition"] = torch.tensor([judge.score(f, p) for f, p in zip(found, prompts)])
    values[CORRECT] = torch.tensor([float(judge.correct(f, p)) for f, p in zip(found, prompts)])
    return {name: [round(v, DIGITS) for v in value.tolist()] for name, value in values.items()}


def measured(batches: Sequence[Tensor], base: Sequence[Tensor], prompts: Sequence[Prompt]) -> dict:
    """The numbers of an `Outcome`: of batches (P, 3, H, W), one per seed, and the base's."""
    parts = [score(pictures, prompts) for pictures in batches]
    values = {name: [v for part in parts for v in part[name]] for name in parts[0]}
    values[SHIFT] = [round(v, DIGITS) for a, b in zip(batches, base) for v in distances(a, b)]
    together = torch.stack(list(batches)).movedim(2, -1)
    spreads = {
        name: [round(measure(together[:, k]), DIGITS) for k in range(len(prompts))]
        for name, measure in ((DIVERSITY, diversity), (STRUCTURE, structure_diversity))
    }
    return {"values": values} | spreads


def distances(a: Tensor, b: Tensor) -> list[float]:
    """How far pictures (B, 3, H, W) are from each other, one by one."""
    return picture_distance(a.movedim(1, -1), b.movedim(1, -1)).tolist()
