"""What a MODEL with RLG on it carries: its experts, as a record that later nodes extend and clones share."""

from __future__ import annotations

from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...rlg_core.budget import Budget
from ...rlg_core.errors import RLGError
from ...rlg_core.schedule import AnySchedule
from ...rlg_core.trace import TraceLog
from .pair import SharedWeights, TwoCheckpoints

KEY = "rlg"


@dataclass(frozen=True)
class Branch:
    """How an expert guides the two prompts. With `rl_cfg` it is CFG'd on its own, at that scale (0: the sampler's)."""

    rl_cfg: float = 0.0
    positive_scale: float = 1.0
    negative_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.rl_cfg > 0 and self.by_prompt:
            raise RLGError(
                f"rl_cfg is {self.rl_cfg} with positive_scale {self.positive_scale} and negative_scale {self.negative_scale}: "
                "an RL model with a CFG of its own has no prompts to scale apart, expected both to be 1."
            )

    @property
    def by_prompt(self) -> bool:
        return (self.positive_scale, self.negative_scale) != (1.0, 1.0)

    @property
    def multipliers(self) -> dict[str, float]:
        return {"positive": self.positive_scale, "negative": self.negative_scale}


@dataclass(frozen=True)
class Expert:
    """One RL-tuned version of the base and how strongly it guides: `w = o + mask (schedule(t) - o)`.

    `mask` [masks, H, W] in [0, 1], or None for everywhere; `outside_scale` o counts where it is 0.
    """

    source: SharedWeights | TwoCheckpoints
    schedule: AnySchedule
    outside_scale: float = 1.0
    mask: Tensor | None = None
    branch: Branch = Branch()


@dataclass(frozen=True)
class Record:
    """All that RLG nodes have put on one MODEL."""

    experts: tuple[Expert, ...] = ()
    rescale: float = 0.0
    budget: Budget | None = None
    trace: TraceLog | None = None


def record_of(model: ModelPatcher) -> Record | None:
    """The record of `model`, or None where no RLG node has been applied to it."""
    return model.attachments.get(KEY)
