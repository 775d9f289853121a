"""What guidance did at each step, measured on predictions that were made anyway."""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class TraceEntry:
    """One image at one step. `difference` |v_rl - v_base| (root mean square, velocity), `share` the part of the
    prediction that guidance made, `angle` in degrees between guidance and the CFG direction (None without CFG),
    `path_kl` this step's KL between guided and base path, in nats, `evaluated` the models that ran. None where a step
    needed only one of the two models, so that there is nothing to compare."""

    step: int
    sigma: float
    percent: float
    image: int
    scale: float
    difference: float | None
    share: float | None
    angle: float | None
    path_kl: float | None
    evaluated: tuple[str, ...]


@dataclass
class TraceLog:
    """The entries of the last run of one RLG Trace node; a new run begins it anew."""

    entries: list[TraceEntry] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps([asdict(entry) for entry in self.entries], indent=1)


def root_mean_square(rows: Tensor) -> Tensor:
    """[rows, ...] -> [rows]."""
    return rows.flatten(1).square().mean(1).sqrt()


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Degrees between the rows of `a` and `b`, [rows, ...] -> [rows]."""
    cosine = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1), dim=1)
    return torch.rad2deg(torch.acos(cosine.clamp(-1.0, 1.0)))
