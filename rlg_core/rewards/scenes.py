"""Judges simple scenes by number, colour and shape, without a model. A demo adapter was trained for it.

Objects are saturated and grounds are not, so saturation separates them. Connected regions are the objects. The median
colour of a region names its colour, and the share of its bounding box that it fills names its shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..errors import RLGError

COUNTS = ("one", "two", "three")
SHAPES = ("circle", "square", "triangle")
GROUNDS = ("plain", "striped", "checkered", "noisy")
PALETTE = {
    "red": (0.86, 0.15, 0.17),
    "orange": (0.95, 0.52, 0.08),
    "yellow": (0.96, 0.87, 0.18),
    "green": (0.12, 0.65, 0.25),
    "blue": (0.15, 0.32, 0.90),
    "purple": (0.60, 0.18, 0.78),
}
COLOURS = tuple(PALETTE)
MIN_SATURATION = 0.3
MIN_AREA = 40
FILL = {"circle": 0.785, "square": 1.0, "triangle": 0.54}
FILL_WIDTH = 0.22  # the score of a shape falls to zero this far from its fill
MIN_ASPECT = 0.7
DIAGONALS_CONNECT = np.ones((3, 3))


@dataclass(frozen=True)
class Prompt:
    """What a caption asks for. `ground` is None if the caption leaves it open."""

    count: int
    colour: str
    shape: str
    ground: str | None = None

    def __str__(self) -> str:
        noun = self.shape + ("s" if self.count > 1 else "")
        tail = f" on {self.ground} ground" if self.ground else ""
        return f"{COUNTS[self.count - 1]} {self.colour} {noun}{tail}"


def all_prompts(grounds=(None,)) -> list[Prompt]:
    """Every combination of count, colour and shape, once for each of `grounds`."""
    return [Prompt(n, c, s, g) for g in grounds for n in (1, 2, 3) for c in COLOURS for s in SHAPES]


def parse(text: str) -> Prompt:
    """Turns a caption as `Prompt.__str__` writes it back into a Prompt. Raises `RLGError` for anything else."""
    for prompt in all_prompts((None, *GROUNDS)):
        if str(prompt) == text.strip().lower():
            return prompt
    raise RLGError(
        "The scene judge knows captions such as 'two red circles' or 'one blue square on striped ground', "
        f"not {text!r}."
    )


@dataclass(frozen=True)
class Found:
    """One object in a picture: colour, shape, and a score in [0, 1] for every colour and shape."""

    colour: str
    shape: str
    colour_score: dict[str, float]
    shape_score: dict[str, float]


def find(pictures: Tensor) -> list[list[Found]]:
    """The objects in each of n pictures [n, h, w, 3] in [0, 1]."""
    return [_objects(picture) for picture in pictures[..., :3].detach().float().cpu().numpy()]


def _objects(picture: np.ndarray) -> list[Found]:
    """The objects in a picture [h, w, 3]. Regions of fewer than MIN_AREA pixels are ignored as specks."""
    saturated = picture.max(-1) - picture.min(-1) > MIN_SATURATION
    regions, _ = ndimage.label(saturated, structure=DIAGONALS_CONNECT)
    found = []
    for number, box in enumerate(ndimage.find_objects(regions), 1):
        inside = regions[box] == number
        if inside.sum() >= MIN_AREA:
            found.append(_described(picture[box], inside))
    return found


def _described(box: np.ndarray, inside: np.ndarray) -> Found:
    """The object that covers the pixels `inside` [h, w] of its bounding box [h, w, 3]."""
    area, (height, width) = int(inside.sum()), inside.shape
    fill, aspect = area / (height * width), min(height, width) / max(height, width)
    colour = np.median(box[inside], 0)
    near = {name: float(np.linalg.norm(colour - rgb)) for name, rgb in PALETTE.items()}
    colour_score = {name: max(0.0, 1 - d / 0.5) for name, d in near.items()}
    upright = 1.0 if aspect > MIN_ASPECT else float(aspect)
    shape_score = {s: upright * max(0.0, 1 - ((fill - FILL[s]) / FILL_WIDTH) ** 2) for s in SHAPES}
    shape = min(SHAPES, key=lambda s: abs(fill - FILL[s])) if aspect > MIN_ASPECT else "other"
    return Found(min(COLOURS, key=near.get), shape, colour_score, shape_score)


def correct(found: list[Found], prompt: Prompt) -> bool:
    """Whether number, colour and shape are all as asked."""
    return len(found) == prompt.count and all(f.colour == prompt.colour and f.shape == prompt.shape for f in found)


def score(found: list[Found], prompt: Prompt) -> float:
    """Dense correctness in [0, 1]: half for the mean of number, colour and shape, half for being fully correct."""
    number = max(0.0, 1 - abs(len(found) - prompt.count) / 2)
    share = 1 / max(len(found), prompt.count, 1)
    colour = share * sum(f.colour_score[prompt.colour] for f in found)
    shape = share * sum(f.shape_score[prompt.shape] for f in found)
    return (number + colour + shape) / 6 + 0.5 * correct(found, prompt)


def scene_score(pictures: Tensor, prompts: Sequence[str]) -> Tensor:
    """The dense score of pictures [n, h, w, 3] for captions such as "two red circles". Raises `RLGError` for others."""
    asked = [parse(prompt) for prompt in prompts]
    return torch.tensor([score(found, prompt) for found, prompt in zip(find(pictures), asked)])
