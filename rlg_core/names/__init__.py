"""Module names in adapter files -> the host's weights, by one table of rules for each architecture."""

from .match import Match, match
from .report import describe
from .resolve import NameMap, Target

__all__ = ["Match", "NameMap", "Target", "describe", "match"]
