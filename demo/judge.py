"""Program judge: which objects a picture shows, read off its pixels. Knows nothing of latents or prompts.

Object colours are saturated and grounds are not, so saturation separates them; connected regions are the objects;
a region's mean colour names its colour, and the share of its bounding box that it fills names its shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .scenes import COLOURS, PALETTE, SHAPES, Prompt

MIN_SATURATION = 0.3
MIN_AREA = 40
FILL = {"circle": 0.785, "square": 1.0, "triangle": 0.54}
FILL_WIDTH = 0.22  # a shape's score falls to zero this far from its fill
MIN_ASPECT = 0.7


@dataclass(frozen=True)
class Found:
    """One object of a picture: area in pixels, shape likelihoods by fill and aspect, colour distances."""

    area: int
    colour: str
    shape: str
    colour_score: dict[str, float]
    shape_score: dict[str, float]


def regions(mask: np.ndarray) -> list[list[tuple[int, int, int]]]:
    """Connected regions (diagonals connect) of a boolean (H, W), each as its runs (row, start, stop)."""
    found: list[list[tuple[int, int, int]]] = []
    above: list[tuple[int, int, list]] = []
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(line, prepend=False, append=False)).tolist()
        here = []
        for start, stop in zip(edges[::2], edges[1::2]):
            touching = {id(region): region for a, b, region in above + here if a <= stop and start <= b}
            region = join(list(touching.values()), found, above, here)
            region.append((row, start, stop))
            here.append((start, stop, region))
        above = here
    return found


def join(touching: list[list], found: list[list], *open_runs: list) -> list:
    """One region out of those touching (a new one where there is none); keeps `found` and `open_runs` in step."""
    if not touching:
        found.append([])
        return found[-1]
    first, *rest = touching
    for other in rest:
        first.extend(other)
        found[:] = [region for region in found if region is not other]
        for runs in open_runs:
            runs[:] = [(a, b, first if region is other else region) for a, b, region in runs]
    return first


def find(pictures: torch.Tensor) -> list[list[Found]]:
    """Objects of each picture of (B, 3, H, W) in [0, 1]."""
    return [objects(picture) for picture in pictures.detach().float().cpu().numpy()]


def objects(picture: np.ndarray) -> list[Found]:
    """Objects of a picture (3, H, W) in [0, 1]; regions under MIN_AREA pixels are specks."""
    saturated = picture.max(0) - picture.min(0) > MIN_SATURATION
    return [describe(picture, runs) for runs in regions(saturated) if sum(b - a for _, a, b in runs) >= MIN_AREA]


def describe(picture: np.ndarray, runs: list[tuple[int, int, int]]) -> Found:
    """Colour and shape of one region of a picture (3, H, W)."""
    rows, starts, stops = (np.array(v) for v in zip(*runs))
    area, height, width = int((stops - starts).sum()), rows.max() - rows.min() + 1, stops.max() - starts.min()
    fill, aspect = area / (height * width), min(height, width) / max(height, width)
    colour = np.median(np.concatenate([picture[:, y, a:b] for y, a, b in runs], 1), 1)
    near = {name: float(np.linalg.norm(colour - rgb)) for name, rgb in PALETTE.items()}
    colour_score = {name: max(0.0, 1 - d / 0.5) for name, d in near.items()}
    upright = 1.0 if aspect > MIN_ASPECT else float(aspect)
    shape_score = {s: upright * max(0.0, 1 - ((fill - FILL[s]) / FILL_WIDTH) ** 2) for s in SHAPES}
    shape = min(SHAPES, key=lambda s: abs(fill - FILL[s])) if aspect > MIN_ASPECT else "other"
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
