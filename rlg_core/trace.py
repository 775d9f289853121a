"""What guidance did at each step, measured on predictions that were made anyway."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class TraceEntry:
    """One image at one step. `difference` |v_rl - v_base| (root mean square, velocity), `share` the part of the
    prediction that guidance made, `angle` in degrees between guidance and the CFG direction (None without CFG),
    `path_kl` this step's KL between guided and base path, in nats, `evaluated` the models that ran. None where a step
    needed only one of the two models, so that there is nothing to compare.

    `linearised_error`, at the one step that is checked: how far one evaluation of the base with the RL terms at strength
    `scale` (a LoRA strength slider) is from the prediction, as a part of it."""

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
    linearised_error: float | None = None


@dataclass
class TraceLog:
    """The entries of the last run of one RLG Trace node; a new run begins it anew."""

    entries: list[TraceEntry] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps([asdict(entry) for entry in self.entries], indent=1)


LINEARISED_TOLERANCE = 0.02
"""Part of the prediction. On the demo pair a step's error is several times that of the final latent."""


def linearised_statement(entries: Sequence[TraceEntry]) -> str | None:
    """What the check found, for the worst of the images; None where nothing was checked."""
    checked = [entry for entry in entries if entry.linearised_error is not None]
    if not checked:
        return None
    worst = max(checked, key=lambda entry: entry.linearised_error)
    would_do = worst.linearised_error <= LINEARISED_TOLERANCE
    verdict = "would do" if would_do else "would differ"
    return f"a LoRA strength {verdict} ({worst.linearised_error:.1%} off at step {worst.step})"


def root_mean_square(rows: Tensor) -> Tensor:
    """[rows, ...] -> [rows]."""
    return rows.flatten(1).square().mean(1).sqrt()


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Degrees between the rows of `a` and `b`, [rows, ...] -> [rows]."""
    cosine = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1), dim=1)
    return torch.rad2deg(torch.acos(cosine.clamp(-1.0, 1.0)))
