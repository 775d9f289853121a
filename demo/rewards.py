"""The rewards of the demo: pictures (B, 3, H, W) in [0, 1] and their prompts to scores (B,), higher is better."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlg_core.rewards.brightness import brightness as luma
from rlg_core.rewards.jpeg import compressibility
from rlg_core.rewards.scenes import Prompt, correct, find, score


def brightness(pictures: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """Mean luma of the picture: a smooth style reward."""
    return luma(pictures.movedim(1, -1), [])


def jpeg(pictures: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """Minus the size in kilobytes as JPEG at quality 95: compressibility (DDPO, arXiv 2305.13301)."""
    return compressibility(pictures.movedim(1, -1), [])


def composition(pictures: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """The judge's dense score: right number, colour and shape."""
    return torch.tensor([score(found, asked) for found, asked in zip(find(pictures.movedim(1, -1)), prompts)])


def correctness(pictures: Tensor, prompts: Sequence[Prompt]) -> Tensor:
    """1 where the judge finds number, colour and shape as asked, else 0. Reported, not trained on."""
    return torch.tensor([float(correct(found, asked)) for found, asked in zip(find(pictures.movedim(1, -1)), prompts)])


REWARDS = {"brightness": brightness, "jpeg": jpeg, "composition": composition}
