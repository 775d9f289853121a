"""A sweep: pictures and their scores at several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .errors import RLGError, require_number, shortened
from .statistics import Estimate, independent

DEFAULT_SCALES = "0, 0.5, 1, 1.5, 2, 3"
LOWEST, HIGHEST = -10.0, 20.0
"""The scales that the nodes offer."""
MOST_SCALES = 1000
"""Number of scales in one sweep: each is a run, or an item of a batch."""


def parse_scales(text: str) -> list[float]:
    """`"0, 0.5, 1"` -> [0.0, 0.5, 1.0]. Commas, semicolons, spaces and line breaks separate the numbers.

    Raises `RLGError` if there are none or too many, or if one is no number or beyond the scales that the nodes offer.
    """
    if not isinstance(text, str):
        raise RLGError(f"scales is {shortened(text)}: expected a text with numbers, such as {DEFAULT_SCALES!r}.")
    words = text.replace(",", " ").replace(";", " ").split()
    if not words:
        raise RLGError(f"scales is empty: expected numbers such as {DEFAULT_SCALES!r}.")
    if len(words) > MOST_SCALES:
        raise RLGError(f"scales has {len(words)} numbers: expected at most {MOST_SCALES}.")
    return [_number(word) for word in words]


class ListedScale(float):
    """A scale that knows its list: it is number `place`, from 0, of `count`."""

    def __new__(cls, value: float, place: int, count: int) -> ListedScale:
        scale = super().__new__(cls, value)
        scale.place, scale.count = place, count
        return scale

    def __reduce__(self) -> tuple:
        return ListedScale, (float(self), self.place, self.count)


def listed(scales: Sequence[float]) -> list[ListedScale]:
    """`scales` as a list that a graph runs through one by one."""
    return [ListedScale(scale, place, len(scales)) for place, scale in enumerate(scales)]


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not LOWEST <= value <= HIGHEST:
        expected = f"numbers from {LOWEST:g} to {HIGHEST:g}, such as {DEFAULT_SCALES!r}"
        raise RLGError(f"scales has {shortened(word)}: expected {expected}.")
    return value


@dataclass(frozen=True)
class Sweep:
    """`pictures[i]` [n, h, w, 3] were made at `scales[i]`, and `scores[i]` are their n scores, or one for all of them.

    `scores` is empty if nothing was scored.
    """

    scales: Sequence[float]
    pictures: Sequence[Tensor]
    scores: Sequence[Sequence[float]] = ()

    @classmethod
    def of_lists(cls, scales: Sequence[float], images: Sequence[Tensor], scores: Sequence[float] = ()) -> Sweep:
        """A sweep, sorted by scale, from flat lists: the pictures of the first scale, then those of the second, ...

        Raises `RLGError` if pictures or scores cannot be divided evenly among the scales, or for what is no number.
        """
        for name, numbers in (("scale", scales), ("score", scores)):
            for k, value in enumerate(numbers):
                require_number(f"{name} {k + 1}", value)
        if not images:
            raise RLGError("images is empty: expected the pictures of a sweep.")
        pictures = torch.cat([_same_size(image, images[0]) for image in images])
        each = _share("images", len(pictures), len(scales))
        shared: list[Sequence[float]] = []
        if scores:
            per_scale = _share("scores", len(scores), len(scales))
            if per_scale not in (1, each):
                expected = f"{len(pictures)}, one a picture, or {len(scales)}, one a scale"
                raise RLGError(f"scores has {len(scores)} values: expected {expected}.")
            shared = [list(scores[k * per_scale : (k + 1) * per_scale]) for k in range(len(scales))]
        order = sorted(range(len(scales)), key=lambda k: scales[k])
        groups = pictures.split(each)
        return cls([scales[k] for k in order], [groups[k] for k in order], [shared[k] for k in order] if shared else ())

    def rewards(self) -> list[Estimate]:
        """The mean score of each scale; empty without scores."""
        return [independent(group) for group in self.scores]

    def best(self) -> int | None:
        """The index of the scale with the highest mean score, or None without scores."""
        means = [reward.mean for reward in self.rewards()]
        return means.index(max(means)) if means else None


def _share(name: str, count: int, scales: int) -> int:
    if not scales or count % scales or not count:
        raise RLGError(f"{name} has {count} entries for {scales} scales: expected the same number for each scale.")
    return count // scales


def _same_size(image: Tensor, like: Tensor) -> Tensor:
    if image.shape[1:3] == like.shape[1:3]:
        return image[..., :3]
    return functional.interpolate(image[..., :3].movedim(-1, 1), size=like.shape[1:3], mode="bilinear").movedim(1, -1)
