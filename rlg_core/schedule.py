"""The scale of an expert over a sampling run."""
from __future__ import annotations

from dataclasses import dataclass

from .errors import RLGError


@dataclass(frozen=True)
class Window:
    """`scale` inside `[start_percent, end_percent]` of the schedule, `outside_scale` (1 RL model, 0 base) elsewhere."""

    scale: float = 1.5
    start_percent: float = 0.0
    end_percent: float = 1.0
    outside_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.start_percent > self.end_percent:
            raise RLGError(
                f"start_percent is {self.start_percent} and end_percent {self.end_percent}: expected start_percent to be "
                "at most end_percent."
            )

    def scale_at(self, inside: bool) -> float:
        return self.scale if inside else self.outside_scale
