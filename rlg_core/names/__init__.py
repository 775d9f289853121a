"""Maps module names in adapter files to the host's weights, by one table of rules per architecture."""

from .match import Match, match
from .report import OTHERWISE, describe
from .resolve import NameMap, Target

__all__ = ["OTHERWISE", "Match", "NameMap", "Target", "describe", "match"]
