"""What a MODEL with RLG on it carries: its experts, as a record that later nodes extend and clones share."""
from __future__ import annotations

from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher

from ...rlg_core.schedule import Window
from .pair import SharedWeights, TwoCheckpoints

KEY = "rlg"


@dataclass(frozen=True)
class Expert:
    """One RL-tuned version of the base and how strongly it guides."""

    source: SharedWeights | TwoCheckpoints
    window: Window


@dataclass(frozen=True)
class Record:
    """All that RLG nodes have put on one MODEL."""

    experts: tuple[Expert, ...] = ()
    rescale: float = 0.0


def record_of(model: ModelPatcher) -> Record | None:
    """The record of `model`, or None where no RLG node has been applied to it."""
    return model.attachments.get(KEY)
