"""Trials of a search for a scale, and what a fit makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .errors import RLGError, require_number
from .schedule import Stages
from .statistics import Estimate, of_these

STEP = 0.01
"""Grid of the scales that are chosen from: finer differences cannot be told apart."""

RESAMPLES = 1000


@dataclass(frozen=True)
class Trial:
    """The outcome at `stages`, from the noise with the number `noise`: a score per picture, prompt by prompt.

    There are `images` pictures of each prompt. `shifts` are their distances from the base's pictures (empty where those
    were not made). `diversity` and `structure` are mean distances between the pictures of one prompt (NaN for one
    picture per prompt), of pixels and after matching mean and contrast.
    """

    stages: Stages
    scores: tuple[float, ...]
    shifts: tuple[float, ...] = ()
    diversity: float = math.nan
    structure: float = math.nan
    noise: int = 0
    images: int = 1

    @property
    def scale(self) -> float:
        return self.stages.scales[0]

    @property
    def is_constant(self) -> bool:
        return len(set(self.stages.scales)) == 1

    @property
    def reward(self) -> float:
        return float(np.mean(self.scores))

    @property
    def error(self) -> float:
        return self.of(self.scores).error

    @property
    def shift(self) -> float:
        return float(np.mean(self.shifts)) if self.shifts else math.nan

    def of(self, values: Sequence[float]) -> Estimate:
        """The mean of a value per picture, over these prompts."""
        return of_these(np.reshape(values, (-1, self.images)).tolist())

    def over(self, other: Trial) -> Estimate:
        """How much higher the scores are than `other`'s from the same noise."""
        return self.of(np.subtract(self.scores, other.scores))


@dataclass(frozen=True)
class Bounds:
    """Limits of a search: scales in [low, high], and a mean shift of at most `max_shift` from the base (0: no limit).

    The limit is for the upper end of a one-sided 95 % interval of the shift. Raises `RLGError` unless `low` is below
    `high`.
    """

    low: float
    high: float
    max_shift: float = 0.0

    def __post_init__(self) -> None:
        require_number("scale_min", self.low)
        require_number("scale_max", self.high)
        require_number("max_shift", self.max_shift, 0.0)
        if self.low >= self.high:
            raise RLGError(f"scale_min is {self.low}, scale_max {self.high}: expected scale_min to be the smaller.")

    @property
    def scales(self) -> np.ndarray:
        """What is chosen from."""
        inner = np.arange(math.ceil(self.low / STEP), math.floor(self.high / STEP) + 1)
        return np.unique([self.low, *map(_stepped, inner * STEP), self.high])

    def even(self, count: int) -> list[float]:
        inner = [_stepped(self.low + (self.high - self.low) * k / (count - 1)) for k in range(1, count - 1)]
        return [self.low, *inner, self.high]


def _stepped(scale: float) -> float:
    return round(round(scale / STEP) * STEP, 6)


@dataclass(frozen=True)
class Peak:
    """Where a fit is highest, with the 95 % interval of that, and the smallest scale within one standard error of it.

    The standard error is that of the difference between the two, by resampled pictures.
    """

    best: float
    smallest: float
    low: float
    high: float


class Line:
    """Trials along one dial: `at(scale)` says what is tried at a scale."""

    def __init__(self, bounds: Bounds, at: Callable[[float], Stages]):
        self.bounds, self.at = bounds, at
        self.trials: list[tuple[float, Trial]] = []

    def add(self, scale: float, trial: Trial) -> None:
        self.trials.append((scale, trial))
        self.__dict__.pop("curves", None)

    @cached_property
    def curves(self) -> np.ndarray:
        """The fitted reward [1 + resamples, scales], up to an offset: of all pictures, then of resampled ones."""
        tried, noises = (np.array([get(t) for t in self.trials]) for get in (lambda t: t[0], lambda t: t[1].noise))
        degree = max(1, min(3, len(set(tried)) - 2))
        centre, width = (self.bounds.low + self.bounds.high) / 2, (self.bounds.high - self.bounds.low) / 2

        def powers(scales: np.ndarray) -> np.ndarray:
            return np.stack([((scales - centre) / width) ** k for k in range(1, degree + 1)], 1)

        offsets = (noises[:, None] == np.unique(noises)).astype(float)
        fit = np.linalg.pinv(np.concatenate([powers(tried), offsets], 1))[:degree]
        return (powers(self.bounds.scales) @ fit @ self._means(noises)).T

    def _means(self, noises: np.ndarray) -> np.ndarray:
        """The mean rewards [trials, 1 + resamples]. Trials from the same noise are resampled together."""
        generator, drawn = np.random.default_rng(0), {}
        rows = []
        for noise, (_, trial) in zip(noises, self.trials):
            scores = np.array(trial.scores)
            if noise not in drawn:
                drawn[noise] = _resampled(generator, len(scores), trial.images)
            rows.append([scores.mean(), *scores[drawn[noise]].mean(1)])
        return np.array(rows)

    def fitted(self, scale: float) -> float:
        """The fitted reward at `scale`, up to the same offset for all scales."""
        return float(np.interp(scale, self.bounds.scales, self.curves[0]))

    def peak(self, allowed: np.ndarray) -> Peak:
        """What the fit says of the best of the allowed scales."""
        scales, curves = self.bounds.scales[allowed], self.curves[:, allowed]
        best = int(curves[0].argmax())
        behind = curves[:, [best]] - curves
        good = scales[behind[0] <= behind[1:].std(0) + 1e-12]
        low, high = np.percentile(scales[curves[1:].argmax(1)], [2.5, 97.5], method="nearest")
        return Peak(*map(float, (scales[best], min(good, key=abs), low, high)))


def _resampled(generator: np.random.Generator, count: int, images: int) -> np.ndarray:
    """Indices [resamples, count] of pictures drawn within their prompts, or over all if there is one per prompt."""
    if images == 1:
        return generator.integers(count, size=(RESAMPLES, count))
    return generator.integers(images, size=(RESAMPLES, count)) + np.arange(count) // images * images
