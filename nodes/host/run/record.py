"""What a MODEL with RLG on it carries: its experts, as a record that later nodes extend and clones share."""

from __future__ import annotations

from dataclasses import dataclass, field

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....rlg_core.budget import Budget
from ....rlg_core.errors import RLGError, RunError
from ....rlg_core.schedule import ScaleSchedule
from ....rlg_core.trace import TraceLog
from ..models.relation import KEY, Relation, TwoCheckpoints


@dataclass(frozen=True)
class Branch:
    """How an expert guides the two prompts.

    `rl_cfg` above 0 applies CFG to the expert separately, at that scale; 0 means the sampler's. Raises `RLGError` for
    `rl_cfg` together with scales per prompt.
    """

    rl_cfg: float = 0.0
    positive_scale: float = 1.0
    negative_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.rl_cfg > 0 and self.by_prompt:
            raise RLGError(
                f"rl_cfg is {self.rl_cfg}, positive_scale {self.positive_scale}, negative_scale {self.negative_scale}: "
                "an RL model with its own CFG has no separate prompts to scale, expected both scales to be 1."
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

    `mask` [masks, H, W] is in [0, 1], or None for everywhere; `outside_scale` o counts where it is 0.
    """

    relation: Relation
    schedule: ScaleSchedule
    outside_scale: float = 1.0
    mask: Tensor | None = None
    branch: Branch = field(default_factory=Branch)

    @property
    def has_own_weights(self) -> bool:
        return isinstance(self.relation, TwoCheckpoints)


@dataclass(frozen=True)
class Record:
    """All that RLG nodes have put on one MODEL. Raises `RunError` for settings that cannot be honoured together."""

    experts: tuple[Expert, ...] = ()
    rescale: float = 0.0
    budget: Budget = field(default_factory=Budget)
    trace: TraceLog | None = None

    def __post_init__(self) -> None:
        if self.budget.is_linearised:
            self._refuse_what_one_model_cannot_do()
        if self.has_own_cfg:
            self._refuse_what_own_cfg_cannot_do()

    @property
    def has_own_cfg(self) -> bool:
        """Whether any expert has its own CFG scale."""
        return any(expert.branch.rl_cfg > 0 for expert in self.experts)

    def _refuse_what_one_model_cannot_do(self) -> None:
        """A linearised budget makes one prediction, without separate ones of base and RL model."""
        lost = {
            "an RL checkpoint": any(expert.has_own_weights for expert in self.experts),
            "a mask": any(expert.mask is not None for expert in self.experts),
            "rescale": self.rescale > 0,
            "RLG Trace": self.trace is not None,
        }
        found = [name for name, is_set in lost.items() if is_set]
        if found:
            raise RunError(
                f"RLG Budget `linearised` runs one model, so it cannot honour {', '.join(found)}. "
                "Set evaluate to exact."
            )

    def _refuse_what_own_cfg_cannot_do(self) -> None:
        if self.budget.is_linearised or self.budget.refresh_every > 1:
            raise RunError(
                "RLG Branch `rl_cfg` evaluates base and RL model separately, so RLG Budget has nothing to save. "
                "Remove one of the two."
            )
        if self.trace is not None:
            raise RunError(
                "RLG Trace watches single model calls, and RLG Branch `rl_cfg` combines after CFG. "
                "Remove one of the two."
            )


def record_of(model: ModelPatcher) -> Record | None:
    """The record of `model`, or None if no RLG node has been applied to it."""
    return model.attachments.get(KEY)
