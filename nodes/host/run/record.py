"""What a MODEL with RLG on it carries: its experts, as a record that later nodes extend and clones share."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP, get_wrappers_with_key
from torch import Tensor

from ....rlg_core.budget import Budget
from ....rlg_core.errors import RLGError, RunError, require_number
from ....rlg_core.schedule import ScaleSchedule
from ....rlg_core.sweep import ListedScale
from ....rlg_core.trace import TraceLog
from ..models.relation import KEY, Relation, TwoCheckpoints, refuse_two_on_one_checkpoint

GUARD = f"{KEY} guard"
"""The key of a wrapper in the options of a MODEL that RLG was put on.

Under `KEY` it would change RLG's place among the wrappers of other nodes.
"""


@dataclass(frozen=True)
class Branch:
    """How an expert guides the two prompts.

    `rl_cfg` above 0 applies CFG to the expert separately, at that scale; 0 means the sampler's. Raises `RLGError` for
    `rl_cfg` together with scales per prompt, and for what is no finite number.
    """

    rl_cfg: float = 0.0
    positive_scale: float = 1.0
    negative_scale: float = 1.0

    def __post_init__(self) -> None:
        require_number("rl_cfg", self.rl_cfg, 0.0)
        require_number("positive_scale", self.positive_scale)
        require_number("negative_scale", self.negative_scale)
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

    `mask` [masks, H, W] is in [0, 1], or None for everywhere; `outside_scale` o counts where it is 0. Raises `RLGError`
    for what is no finite number, and for what is no mask.
    """

    relation: Relation
    schedule: ScaleSchedule
    outside_scale: float = 1.0
    mask: Tensor | None = None
    branch: Branch = field(default_factory=Branch)
    max_ratio: float = 0.0
    listed: ListedScale | None = None
    """Its scale, where a list of them is run through."""

    def __post_init__(self) -> None:
        require_number("outside_scale", self.outside_scale)
        require_number("max_ratio", self.max_ratio, 0.0)
        if self.mask is not None:
            _require_mask(self.mask)

    @property
    def has_own_weights(self) -> bool:
        return isinstance(self.relation, TwoCheckpoints)


def _require_mask(mask: Tensor) -> None:
    """Raises `RLGError` unless `mask` is [H, W], [masks, H, W] or [masks, 1, H, W], with finite values."""
    shape = tuple(mask.shape) if isinstance(mask, Tensor) else ()
    if len(shape) not in (2, 3, 4) or 0 in shape or shape[1:-2] not in ((), (1,)):
        got = f"one of shape {shape}" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        raise RLGError(f"mask: expected a mask with height and width, or a batch of them, got {got}.")
    if not bool(mask.isfinite().all()):
        bad = int((~mask.isfinite()).sum())
        raise RLGError(f"mask: {bad} of its {mask.numel()} values are NaN or infinite: expected 0 to 1.")


@dataclass(frozen=True)
class Record:
    """All that RLG nodes have put on one MODEL. Raises `RunError` for settings that cannot be honoured together."""

    experts: tuple[Expert, ...] = ()
    rescale: float = 0.0
    budget: Budget = field(default_factory=Budget)
    trace: TraceLog | None = None

    def __post_init__(self) -> None:
        require_number("rescale", self.rescale, 0.0, 1.0)
        for budget, lost in self._lost().items():
            found = [name for name, is_set in lost.items() if is_set]
            if found:
                raise RunError(f"RLG Budget {budget} cannot honour {', '.join(found)}. Remove one of the two.")
        if self.has_own_cfg:
            self._refuse_what_own_cfg_cannot_do()
        for first, second in combinations(self.experts, 2):
            if first.has_own_weights and second.has_own_weights:
                refuse_two_on_one_checkpoint(first.relation, second.relation)

    @property
    def listed(self) -> ListedScale | None:
        """The first expert's scale that is one of a list, or None if there is none."""
        return next((expert.listed for expert in self.experts if expert.listed is not None), None)

    @property
    def has_own_cfg(self) -> bool:
        """Whether any expert has its own CFG scale."""
        return any(expert.branch.rl_cfg > 0 for expert in self.experts)

    def _lost(self) -> dict[str, dict[str, bool]]:
        """What each budget that is set would lose without a word."""
        experts, budget = self.experts, self.budget
        checkpoint = {"an RL checkpoint": any(expert.has_own_weights for expert in experts)}
        places = {"a mask": any(expert.mask is not None for expert in experts)}
        bounds = {"max_ratio": any(expert.max_ratio > 0 for expert in experts)}
        rescale = {"rescale": self.rescale > 0}
        lost: dict[str, dict[str, bool]] = {}
        if budget.is_linearised:  # one prediction, of which base and RL model are no parts
            lost["`linearised`"] = checkpoint | places | bounds | rescale | {"RLG Trace": self.trace is not None}
        if budget.is_segmented:
            lost["`segmented`"] = places | {
                "more than one RL model": len(experts) > 1,
                "an outside_scale other than 1": any(expert.outside_scale != 1.0 for expert in experts),
                "RLG Branch": any(expert.branch != Branch() for expert in experts),
            }
        if budget.merges_experts and len(experts) > 1:
            lost["experts `merged`"] = checkpoint | places | bounds | rescale
        return lost

    def _refuse_what_own_cfg_cannot_do(self) -> None:
        if self.budget.is_linearised or self.budget.refresh_every > 1:
            raise RunError(
                "RLG Branch `rl_cfg` evaluates base and RL model separately, so RLG Budget has nothing to save. "
                "Remove one of the two."
            )
        if any(expert.max_ratio > 0 for expert in self.experts):
            raise RunError(
                "RLG Branch `rl_cfg` combines after CFG, where max_ratio bounds nothing. Set one of them to 0."
            )
        if self.trace is not None:
            raise RunError(
                "RLG Trace watches single model calls, and RLG Branch `rl_cfg` combines after CFG. "
                "Remove one of the two."
            )


def record_of(model: ModelPatcher) -> Record | None:
    """The record of `model`, or None if no RLG node has been applied to it.

    Raises `RunError` if a later node has dropped it: the model would sample the base alone.
    """
    record = model.attachments.get(KEY)
    if record is None and is_guarded(model):
        raise RunError(
            "A node after RLG made its model anew and dropped RLG from it (AnimateDiff Unload does so), so the base "
            "would be sampled alone. Put that node before Reinforcement Learning Guidance, or remove it."
        )
    return record


def is_guarded(model: ModelPatcher) -> bool:
    """Whether the options of `model` tell that RLG was put on it.

    Some nodes make a model anew from weights and options, and drop all else that is on it.
    """
    return bool(get_wrappers_with_key(WrappersMP.OUTER_SAMPLE, GUARD, model.model_options, is_model_options=True))
