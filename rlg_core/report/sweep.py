"""Shows a sweep as a contact sheet, a plot and a table: how reward and diversity change with the scale."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from ..pictures import diversity, picture_distance, structure_diversity, to_picture
from ..statistics import Estimate
from ..sweep import Sweep
from .plot import Curve, Panel, number, plot
from .sheet import captioned, contact_sheet

CELL = (160, 384)
"""Smallest and largest width of a picture on the sheet, in pixels."""

WRAP = 6
"""Most pictures in a row of a sheet with one picture per scale."""


def sheet(sweep: Sweep) -> Tensor:
    """The contact sheet [h, w, 3]: scales from left to right, one row per seed, each picture with scale and score."""
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
    """The plot [h, w, 3]: reward over scale with standard errors, and diversity, as far as the sweep has them.

    With neither, the distance from the picture of the scale nearest to 0.
    """
    scales, panels = list(sweep.scales), []
    if sweep.scores:
        means, errors = zip(*((reward.mean, reward.error) for reward in sweep.rewards()))
        marks = {scales[sweep.best()]: f"best: {number(scales[sweep.best()])}"}
        many = len(sweep.scores[0])
        title = f"Reward, mean of {many} \u00b1 standard error" if many > 1 else "Reward"
        panels.append(Panel([Curve(scales, means, error=errors)], title, "scale w", "reward", marks))
    spread = [diversity(pictures) for pictures in sweep.pictures]
    if not all(map(math.isnan, spread)):
        structure = [structure_diversity(pictures) for pictures in sweep.pictures]
        panels.append(Panel([Curve(scales, spread)], "Diversity: mean distance of two pictures", "scale w", "distance"))
        title = "Diversity of structure: the same after matching mean and contrast"
        panels.append(Panel([Curve(scales, structure)], title, "scale w", "distance"))
    if not panels:
        title = f"Distance from the picture at w = {number(scales[_nearest_base(scales)])}"
        panels.append(Panel([Curve(scales, _shifts(sweep))], title, "scale w", "distance"))
    return plot(panels)


def _nearest_base(scales: Sequence[float]) -> int:
    return min(range(len(scales)), key=lambda k: abs(scales[k]))


def _shifts(sweep: Sweep) -> list[float]:
    """Mean distance of the pictures of each scale from those of the scale nearest to 0, seed by seed."""
    base = sweep.pictures[_nearest_base(sweep.scales)]
    return [float(picture_distance(pictures, base).mean()) for pictures in sweep.pictures]


def table(sweep: Sweep) -> str:
    """CSV: scale, pictures, reward, standard_error, diversity, shift (mean distance from the scale nearest to 0),
    structure_diversity (diversity after matching mean and contrast).
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["scale", "pictures", "reward", "standard_error", "diversity", "shift", "structure_diversity"])
    rewards = sweep.rewards() or [Estimate(math.nan, math.nan, 0)] * len(sweep.scales)
    for scale, pictures, reward, shift in zip(sweep.scales, sweep.pictures, rewards, _shifts(sweep)):
        values = (reward.mean, reward.error, diversity(pictures), shift, structure_diversity(pictures))
        writer.writerow([number(scale), len(pictures), *("" if math.isnan(v) else f"{v:.6g}" for v in values)])
    return out.getvalue()
