"""What a sweep says about the scale: means with intervals, which scale is best, and how sure that is.

Prompts are the clusters: pictures of one prompt are alike, so that a prompt counts once, by the mean over its pictures.
With a single prompt its seeds take their place, and what is said holds for that prompt alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlg_core import resampling
from rlg_core.statistics import independent

from .spec import PROMPT, SCALE, SEED

Clusters = Mapping[Any, float]
"""The mean of each cluster."""


@dataclass(frozen=True)
class Choice:
    """The best scale, those that are as good within error, and each scale's share of the resamples it is best in.

    `is_end` says that it is the largest scale that was tried, so that a larger one may be better still.
    """

    scale: float
    as_good: tuple[float, ...]
    shares: Mapping[float, float]
    is_end: bool


def clusters(rows: Iterable[Mapping[str, Any]], name: str) -> dict[float, dict[Any, float]]:
    """Return {scale: {prompt: mean of the column `name`}}; seeds stand for prompts where there is one prompt."""
    rows = list(rows)
    by = PROMPT if len({row[PROMPT] for row in rows}) > 1 else SEED
    found: dict[float, dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row[SCALE]][row[by]].append(row[name])
    return {scale: {key: float(np.mean(v)) for key, v in found[scale].items()} for scale in sorted(found)}


def complete(rows: Iterable[Mapping[str, Any]]) -> list[dict]:
    """Return the rows of those scales that saw the most units: all of a grid, the last two of a search."""
    rows = list(rows)
    units = defaultdict(set)
    for row in rows:
        units[row[SCALE]].add((row[PROMPT], row[SEED]))
    most = max(map(len, units.values()))
    return [row for row in rows if len(units[row[SCALE]]) == most]


def choose(means: Mapping[float, Clusters]) -> Choice:
    """Return which of the scales is best; all have the same clusters, whose differences are what counts."""
    scales, names = sorted(means), sorted(next(iter(means.values())), key=str)
    table = np.array([[means[scale][name] for scale in scales] for name in names])
    top = int(table.mean(0).argmax())
    as_good = [s for k, s in enumerate(scales) if k == top or not _worse(table[:, top] - table[:, k])]
    shares = dict(zip(scales, resampling.winners(table).tolist()))
    return Choice(scales[top], tuple(as_good), shares, len(scales) > 1 and top == len(scales) - 1)


def _worse(differences: np.ndarray) -> bool:
    """Tell whether the first of two scales is better beyond error, by their differences cluster by cluster."""
    found = independent(differences)
    return found.mean > found.half


def front(points: Mapping[float, tuple[float, float]]) -> list[float]:
    """Return the scales whose pair of values no other one beats in one without losing in the other."""
    scales = list(points)
    return [scales[k] for k in resampling.front(list(points.values()))]
