"""What guidance did at each step, measured on predictions that the run makes anyway.

Only the linearised check takes one evaluation more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class TraceEntry:
    """One image at one step.

    - `difference`: root mean square of v_rl - v_base; v is the velocity (x - denoised) / sigma.
    - `norm_ratio`: |v_rl| / |v_base|; RL training tends to inflate it by 5 to 15 % (arXiv 2606.27771).
    - `share`: the part of the guided velocity that guidance made, as a ratio of root mean squares.
    - `angle`: degrees between guidance and the CFG direction; None without CFG.
    - `path_kl`: this step's share of the KL divergence, in nats, of guided from base sampling (see `kl`).
    - `evaluated`: the models that ran.
    - `linearised_error`: how far one evaluation of the base with the RL terms at strength `scale` (a LoRA strength
      slider) is from the guided velocity, relative to it. Only one step is checked; None at the others.
    - `risk`: by how much of its velocity a budget's prediction for this step was off, `|1 - sum w| |predicted -
      observed| / |v|`; None where the step before was not skipped.

    What compares the two models is None if the step needed only one of them.
    """

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
    norm_ratio: float | None = None
    risk: float | None = None


@dataclass
class TraceLog:
    """The entries of the last run of one RLG Trace node. Each new run empties it first."""

    entries: list[TraceEntry] = field(default_factory=list)

    def to_json(self) -> str:
        return json.dumps([asdict(entry) for entry in self.entries], indent=1)


LINEARISED_TOLERANCE = 0.02
"""Largest `linearised_error` at which a LoRA strength slider would do.

On the demo pair the error of a single step is several times that of the final latent.
"""


def linearised_statement(entries: Sequence[TraceEntry]) -> str | None:
    """What the linearised check found for the worst of the images, or None if nothing was checked."""
    checked = [entry for entry in entries if entry.linearised_error is not None]
    if not checked:
        return None
    worst = max(checked, key=lambda entry: entry.linearised_error)
    would_do = worst.linearised_error <= LINEARISED_TOLERANCE
    verdict = "would do" if would_do else "would differ"
    return f"a LoRA strength {verdict} ({worst.linearised_error:.1%} off at step {worst.step})"


def root_mean_square(rows: Tensor) -> Tensor:
    """The root mean square of each row: [rows, ...] -> [rows]."""
    return rows.flatten(1).square().mean(1).sqrt()


def angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between the rows of `a` and `b` in degrees: [rows, ...] -> [rows]."""
    cosine = torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1), dim=1)
    return torch.rad2deg(torch.acos(cosine.clamp(-1.0, 1.0)))
