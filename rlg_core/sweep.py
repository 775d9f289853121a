"""Pictures over scales: how reward and diversity go with w, as a contact sheet, a plot and a table."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .errors import RLGError
from .plots import Curve, Panel, captioned, contact_sheet, number, plot, to_picture

GRAIN = 64
"""Distances between pictures are taken at this size: they see what is shown and where, not its noise."""

CELL = (160, 384)
"""Bounds of the width of a picture on the sheet, in pixels."""

WRAP = 6
"""One picture a scale: more scales than this go over several rows."""

DEFAULT_SCALES = "0, 0.5, 1, 1.5, 2, 3"


def parse_scales(text: str) -> list[float]:
    """`"0, 0.5, 1"` -> [0.0, 0.5, 1.0]; commas, semicolons, spaces and line breaks separate. Raises `RLGError`."""
    words = text.replace(",", " ").replace(";", " ").split()
    if not words:
        raise RLGError(f"scales is empty: expected numbers such as {DEFAULT_SCALES!r}.")
    return [_number(word) for word in words]


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RLGError(f"scales has {word!r}: expected numbers such as {DEFAULT_SCALES!r}.")
    return value


def picture_distance(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference of pictures [n, h, w, 3] in [0, 1], averaged down to at most 64 pixels a side: [n].

    0 is the same picture, 1 black against white.
    """
    return (_grain(a) - _grain(b)).square().mean(dim=(1, 2, 3)).sqrt()


def _grain(pictures: Tensor) -> Tensor:
    size = (min(GRAIN, pictures.shape[1]), min(GRAIN, pictures.shape[2]))
    return functional.adaptive_avg_pool2d(pictures[..., :3].float().movedim(-1, 1), size)


def diversity(pictures: Tensor) -> float:
    """Mean distance of all pairs of `pictures` [n, h, w, 3]; NaN for one. Preference collapse shows as its fall."""
    if len(pictures) < 2:
        return math.nan
    small = _grain(pictures).flatten(1)
    return float(torch.pdist(small).mean()) / math.sqrt(small.shape[1])


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error (NaN for a single value)."""
    data = torch.tensor(values, dtype=torch.float64)
    error = float(data.std() / math.sqrt(len(data))) if len(data) > 1 else math.nan
    return float(data.mean()), error


@dataclass(frozen=True)
class Sweep:
    """`pictures[i]` [n, h, w, 3] and `scores[i]` (n numbers, one for all, or none) were made at `scales[i]`."""

    scales: Sequence[float]
    pictures: Sequence[Tensor]
    scores: Sequence[Sequence[float]] = ()

    @classmethod
    def of_lists(cls, scales: Sequence[float], images: Sequence[Tensor], scores: Sequence[float] = ()) -> Sweep:
        """From flat lists in the order of the scales: the pictures of the first scale, then those of the second, ...

        Raises `RLGError` where pictures or scores cannot be shared out evenly.
        """
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

    def rewards(self) -> list[tuple[float, float]]:
        """Mean and standard error of each scale; empty without scores."""
        return [mean_and_error(group) for group in self.scores]

    def best(self) -> int | None:
        """Which scale has the highest mean score."""
        means = [mean for mean, _ in self.rewards()]
        return means.index(max(means)) if means else None


def _share(name: str, count: int, scales: int) -> int:
    if not scales or count % scales or not count:
        raise RLGError(f"{name} has {count} entries for {scales} scales: expected the same number for each scale.")
    return count // scales


def _same_size(image: Tensor, like: Tensor) -> Tensor:
    if image.shape[1:3] == like.shape[1:3]:
        return image[..., :3]
    return functional.interpolate(image[..., :3].movedim(-1, 1), size=like.shape[1:3], mode="bilinear").movedim(1, -1)


def sheet(sweep: Sweep) -> Tensor:
    """Scales from left to right, one row a seed; each picture with its scale and score: [h, w, 3]."""
    best = sweep.best()
    columns = [
        [captioned(_cell(picture), _caption(sweep, k, row), k == best) for row, picture in enumerate(pictures)]
        for k, pictures in enumerate(sweep.pictures)
    ]
    if len(columns[0]) > 1:
        return contact_sheet(list(zip(*columns)))
    cells = [column[0] for column in columns]
    wide = len(cells) if len(cells) <= WRAP else math.ceil(len(cells) / math.ceil(len(cells) / WRAP))
    return contact_sheet([cells[k : k + wide] for k in range(0, len(cells), wide)])


def _cell(picture: Tensor) -> Image.Image:
    image = to_picture(picture)
    if image.width > CELL[1]:
        return image.resize((CELL[1], max(1, round(image.height * CELL[1] / image.width))), Image.LANCZOS)
    times = math.ceil(CELL[0] / image.width)
    return image.resize((image.width * times, image.height * times), Image.NEAREST)


def _caption(sweep: Sweep, k: int, row: int) -> str:
    scale = f"w = {number(sweep.scales[k])}"
    if not sweep.scores:
        return scale
    own = sweep.scores[k]
    return f"{scale}   score {number(own[row if len(own) > 1 else 0])}"


def curves(sweep: Sweep) -> Tensor:
    """Reward against scale with standard errors, and diversity below it, as far as there are any: [h, w, 3]."""
    scales, panels = list(sweep.scales), []
    if sweep.scores:
        means, errors = zip(*sweep.rewards())
        marks = {scales[sweep.best()]: f"best: {number(scales[sweep.best()])}"}
        many = len(sweep.scores[0])
        title = f"Reward, mean of {many} \u00b1 standard error" if many > 1 else "Reward"
        panels.append(Panel([Curve(scales, means, error=errors)], title, "scale w", "reward", marks))
    spread = [diversity(pictures) for pictures in sweep.pictures]
    if not all(map(math.isnan, spread)):
        panels.append(Panel([Curve(scales, spread)], "Diversity: mean distance of two pictures", "scale w", "distance"))
    if not panels:
        title = f"Distance from the picture at w = {number(scales[_nearest_base(scales)])}"
        panels.append(Panel([Curve(scales, _shifts(sweep))], title, "scale w", "distance"))
    return plot(panels)


def _nearest_base(scales: Sequence[float]) -> int:
    return min(range(len(scales)), key=lambda k: abs(scales[k]))


def _shifts(sweep: Sweep) -> list[float]:
    """Mean distance of each scale's pictures from those of the scale nearest to 0, seed by seed."""
    base = sweep.pictures[_nearest_base(sweep.scales)]
    return [float(picture_distance(pictures, base).mean()) for pictures in sweep.pictures]


def table(sweep: Sweep) -> str:
    """CSV: scale, pictures, reward, standard_error, diversity, shift (mean distance from the scale nearest to 0)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["scale", "pictures", "reward", "standard_error", "diversity", "shift"])
    rewards = sweep.rewards() or [(math.nan, math.nan)] * len(sweep.scales)
    for scale, pictures, (mean, error), shift in zip(sweep.scales, sweep.pictures, rewards, _shifts(sweep)):
        values = (mean, error, diversity(pictures), shift)
        writer.writerow([number(scale), len(pictures), *("" if math.isnan(v) else f"{v:.6g}" for v in values)])
    return out.getvalue()
