"""Program judge: which objects a picture shows, read off its pixels. Knows nothing of latents or prompts.

Object colours are saturated and grounds are not, so saturation separates them; connected regions are the objects;
a region's mean colour names its colour, and the share of its bounding box that it fills names its shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .scenes import COLOURS, PALETTE, SHAPES, Prompt

MIN_SATURATION = 0.3
MIN_AREA = 40
FILL = {"circle": 0.785, "square": 1.0, "triangle": 0.54}
FILL_WIDTH = 0.11


@dataclass(frozen=True)
class Found:
    """One object of a picture: area in pixels, shape likelihoods by fill and aspect, colour distances."""

    area: int
    colour: str
    shape: str
    colour_score: dict[str, float]
    shape_score: dict[str, float]


def regions(mask: torch.Tensor) -> torch.Tensor:
    """Label connected regions of `mask` (B, H, W) by flooding; 0 is ground. Labels are the largest pixel index."""
    b, h, w = mask.shape
    labels = torch.arange(1, h * w + 1, dtype=torch.float32, device=mask.device).view(1, h, w) * mask
    while True:
        grown = labels
        for _ in range(8):
            grown = F.max_pool2d(grown[:, None], 3, 1, 1)[:, 0] * mask
        if torch.equal(grown, labels):
            return labels.long()
        labels = grown


def find(pictures: torch.Tensor) -> list[list[Found]]:
    """Objects of each picture of (B, 3, H, W) in [0, 1]."""
    saturation = pictures.amax(1) - pictures.amin(1)
    labels = regions((saturation > MIN_SATURATION).float())
    return [[describe(p, l == i) for i in big_regions(l)] for p, l in zip(pictures, labels)]


def big_regions(labels: torch.Tensor) -> list[int]:
    ids, areas = labels.unique(return_counts=True)
    return [int(i) for i, area in zip(ids, areas) if i > 0 and area >= MIN_AREA]


def describe(picture: torch.Tensor, region: torch.Tensor) -> Found:
    """Colour and shape of one region (H, W) of a picture (3, H, W)."""
    area = int(region.sum())
    rows, columns = region.any(1).nonzero(), region.any(0).nonzero()
    height, width = (int(v.max() - v.min() + 1) for v in (rows, columns))
    fill, aspect = area / (height * width), min(height, width) / max(height, width)
    colour = picture[:, region].median(1).values
    near = {name: float((colour - torch.tensor(rgb, device=colour.device)).norm()) for name, rgb in PALETTE.items()}
    colour_score = {name: max(0.0, 1 - d / 0.5) for name, d in near.items()}
    upright = 1.0 if aspect > 0.7 else aspect
    shape_score = {s: upright * max(0.0, 1 - ((fill - FILL[s]) / (2 * FILL_WIDTH)) ** 2) for s in SHAPES}
    shape = min(SHAPES, key=lambda s: abs(fill - FILL[s])) if aspect > 0.7 else "other"
    return Found(area, min(COLOURS, key=near.get), shape, colour_score, shape_score)


def correct(found: list[Found], prompt: Prompt) -> bool:
    """True where number, colour and shape are all as asked."""
    return len(found) == prompt.count and all(f.colour == prompt.colour and f.shape == prompt.shape for f in found)


def score(found: list[Found], prompt: Prompt) -> float:
    """Dense correctness in [0, 1]: mean of number, colour and shape, and half of the whole for being fully correct."""
    number = max(0.0, 1 - abs(len(found) - prompt.count) / 2)
    share = 1 / max(len(found), prompt.count, 1)
    colour = share * sum(f.colour_score[prompt.colour] for f in found)
    shape = share * sum(f.shape_score[prompt.shape] for f in found)
    return (number + colour + shape) / 6 + 0.5 * correct(found, prompt)


def judge(pictures: torch.Tensor, prompts: list[Prompt]) -> list[bool]:
    """Fully correct or not, for each picture of (B, 3, H, W) in [0, 1]."""
    return [correct(f, p) for f, p in zip(find(pictures), prompts)]
