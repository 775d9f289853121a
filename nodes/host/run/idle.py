"""Layers with terms that do not run although the blocks do that they are in.

Some have nothing to do in a graph, as the attention to a picture in an image-to-video model that gets none. Others are
computed by functions of other nodes, which read their weights: what the RL model changes there would be lost.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import AbstractContextManager

from comfy.model_base import BaseModel

from ....rlg_core.errors import RunError
from ....rlg_core.rows import BlockWatch, Pass, reads
from ..compat import READ_AHEAD

log = logging.getLogger(__name__)

NETWORK = "diffusion_model."


class IdleLayers:
    """What one run has found of them."""

    def __init__(self, model: BaseModel, blocks: BlockWatch):
        self.model, self.blocks = model, blocks
        self.names: set[str] = set()
        self.told: set[str] = set()

    def reads(self) -> AbstractContextManager[set[str]]:
        """Notes, for the time of a pass, whose weights are read of those that were found so far."""
        return reads({name: self.model.get_submodule(name) for name in self.names}, READ_AHEAD)

    def add(self, idle: set[str]) -> bool:
        """Whether some of those of a pass were not known, so that nobody has seen yet who reads their weights."""
        new = idle - self.names
        self.names |= new
        return bool(new)

    def require_unread(self, seen: Pass, idle: set[str], read: set[str]) -> None:
        """Raises `RunError` if the weights of one were `read` in a pass, and tells once of those that no pass runs."""
        lost = sorted(idle & read)
        if lost:
            raise RunError(
                f"{len(lost)} of {len(seen.watched)} layers that the RL model changes do not run, and something reads "
                f"their weights instead, first {', '.join(lost[:3])}: what the RL model changes there would be lost. A "
                "node that computes these layers by itself may be the cause: remove it."
            )
        if idle - self.told:
            self.told |= idle
            log.warning(
                "RLG: %d of %d layers that the RL model changes do not run in this graph, first %s: what it changes "
                "there is not in the picture.",
                *(len(idle), len(seen.watched), ", ".join(sorted(idle)[:3])),
            )

    def of(self, seen: Pass, ran: Collection[str]) -> set[str]:
        """Those of one pass; none where no layer ran, as something else then answered for the whole model."""
        names = {name.removeprefix(NETWORK): name for name in seen.watched - seen.ran}
        return {names[name] for name in self.blocks.beside(ran, names)} if seen.ran else set()
