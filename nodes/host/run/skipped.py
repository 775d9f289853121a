"""Caches that skip a step for all prompts (EasyCache): in one prediction they must not skip one model alone.

EasyCache asks the first prompt that it has seen in a run whether a step is skipped, and those that come after follow.
A model that joins later would run while the base is skipped, whose prediction is then that of another sigma.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..compat import caches_by_uuid
from .calls import ModelCall
from .own_cfg import FOCUS


class SkippedSteps:
    """Which models had a say in the calls of one run so far, by prompts."""

    def __init__(self) -> None:
        self.roles: dict[Hashable, tuple[int, ...]] = {}

    def begin(self, call: ModelCall, roles: Sequence[int]) -> None:
        """Has caches begin anew where other models have a say than in the last call for the same prompts."""
        kind, now = (call.transformer_options.get(FOCUS), call.batch.conditionings), tuple(roles)
        if self.roles.get(kind, now) != now:
            begin_anew(call)
        self.roles[kind] = now


def begin_anew(call: ModelCall) -> None:
    """Has caches forget what they have seen, as at the beginning of a run."""
    for cache in caches_by_uuid(call.transformer_options):
        cache.reset()
        cache.relative_transformation_rate = None  # not 0, by which the step after the next would always be skipped
