"""The scale of an expert over a sampling run, as a function of the schedule's percent (0 noise, 1 picture)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .errors import LARGEST, RLGError, require_number, require_one_of, shortened

BOUNDARY = 1e-5
"""Percents closer than this count as equal: turning a step's float32 sigma back into a percent errs by this much."""

PROGRESS: dict[str, Callable[[float, float], float]] = {
    "constant": lambda u, power: 0.0,
    "linear": lambda u, power: u,
    "cosine": lambda u, power: (1.0 - math.cos(math.pi * u)) / 2.0,
    "power": lambda u, power: u**power,
    "interval": lambda u, power: 0.0,
}
"""Per shape: how far the scale has moved from `scale_from` (0) to `scale_to` (1) at the fraction u of the window."""


SMALLEST_BETA = 1e-9
"""A KL coefficient has to be above 0."""


class ScaleSchedule(Protocol):
    """A scale as a function of the schedule's percent (0 noise, 1 picture)."""

    def scale_at(self, percent: float) -> float | Tensor:
        """The scale at `percent`: one number, or one per batch item."""


@dataclass(frozen=True)
class Schedule:
    """A scale that moves from `scale_from` before the window to `scale_to` after it, along the path of `shape`.

    `constant` is `scale_from` throughout. `interval` is `scale_from` inside the window, both ends included, and
    `scale_to` outside. Raises `RLGError` for an unknown shape, for what is no finite number or percent, and for a
    window that ends before it starts.
    """

    shape: str = "constant"
    scale_from: float = 1.5
    scale_to: float = 1.5
    start_percent: float = 0.0
    end_percent: float = 1.0
    power: float = 1.0

    def __post_init__(self) -> None:
        require_one_of("shape", self.shape, PROGRESS)
        for name, low, high in (
            ("scale_from", -LARGEST, LARGEST),
            ("scale_to", -LARGEST, LARGEST),
            ("start_percent", 0.0, 1.0),
            ("end_percent", 0.0, 1.0),
            ("power", 0.0, LARGEST),
        ):
            require_number(name, getattr(self, name), low, high)
        if self.start_percent > self.end_percent:
            raise RLGError(
                f"start_percent is {self.start_percent} and end_percent {self.end_percent}: "
                "expected start_percent to be at most end_percent."
            )

    @property
    def is_constant(self) -> bool:
        """Whether the scale is the same at every percent."""
        always = self.shape == "interval" and self.start_percent == 0.0 and self.end_percent == 1.0
        return always or self.shape == "constant" or self.scale_from == self.scale_to

    def scale_at(self, percent: float) -> float:
        """The scale at `percent` in [0, 1] of the schedule."""
        before, after = percent < self.start_percent - BOUNDARY, percent > self.end_percent + BOUNDARY
        if self.shape == "interval":
            return self.scale_to if before or after else self.scale_from
        if before or after:
            u = 0.0 if before else 1.0
        else:
            length = self.end_percent - self.start_percent
            u = min(max((percent - self.start_percent) / length, 0.0), 1.0) if length > 0 else 1.0
        return self.scale_from + PROGRESS[self.shape](u, self.power) * (self.scale_to - self.scale_from)


CUSTOM = "custom"
PRESETS = {
    "paper": Schedule("constant", 1.6, 1.6),
    "first steps RL only": Schedule("interval", 1.6, 1.0, 0.1, 1.0),
    "RL early, base late": Schedule("interval", 1.0, 0.0, 0.0, 0.6),
    "limited interval": Schedule("interval", 2.5, 1.0, 0.2, 0.7),
}
"""Schedules in use, by name.

The paper's example and `zero_init_step` of its code (arXiv 2508.21016); MixGRPO's inference, the RL model for 30 of 50
steps (arXiv 2507.21802); guidance in a limited interval (arXiv 2404.07724).
"""


def schedule_of(preset: str, *values: object, **named: object) -> Schedule:
    """The schedule of that name, or for `custom` the one that the values make. Raises `RLGError` for other names."""
    if preset not in (CUSTOM, *PRESETS):
        raise RLGError(f"preset is {shortened(preset)}: expected one of {', '.join((CUSTOM, *PRESETS))}.")
    return Schedule(*values, **named) if preset == CUSTOM else PRESETS[preset]


@dataclass(frozen=True)
class PerItem:
    """A scale per item of a batch: `scales[i] * shape(percent)`, or `scales[i]` throughout if there is no shape."""

    scales: tuple[float, ...]
    shape: Schedule | None = None

    def __post_init__(self) -> None:
        for number, scale in enumerate(self.scales):
            require_number(f"scale {number + 1}", scale)

    @property
    def is_constant(self) -> bool:
        return self.shape is None or self.shape.is_constant

    def scale_at(self, percent: float) -> Tensor:
        """[items], float32."""
        factor = 1.0 if self.shape is None else self.shape.scale_at(percent)
        return torch.tensor(self.scales) * factor


@dataclass(frozen=True)
class Stages:
    """A scale for each third of the schedule: early, middle and late."""

    scales: tuple[float, float, float]

    @classmethod
    def constant(cls, scale: float) -> Stages:
        return cls((scale, scale, scale))

    @property
    def is_constant(self) -> bool:
        return len(set(self.scales)) == 1

    def scale_at(self, percent: float) -> float:
        return self.scales[min(max(int(percent * len(self.scales)), 0), len(self.scales) - 1)]

    def with_stage(self, stage: int, scale: float) -> Stages:
        return Stages((*self.scales[:stage], scale, *self.scales[stage + 1 :]))


def constant_in_window(scale: float, start_percent: float, end_percent: float, outside_scale: float) -> Schedule:
    """The schedule of the plain dial: `scale` inside the window, `outside_scale` elsewhere."""
    return Schedule("interval", scale, outside_scale, start_percent, end_percent)


def scale_from_kl(trained_beta: float, target_beta: float) -> float:
    """`w = trained_beta / target_beta`: RLG at w aims at what training with `target_beta` aims at (arXiv 2508.21016).

    Exact for the densities of the models only. Along the sampling path it is nearly exact for w between 0 and 1; above
    1 it has the right direction and too large a dose. Raises `RLGError` unless both coefficients are positive numbers.
    """
    for name, beta in (("trained_beta", trained_beta), ("target_beta", target_beta)):
        require_number(name, beta, SMALLEST_BETA)
    return trained_beta / target_beta
