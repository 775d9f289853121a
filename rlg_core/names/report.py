"""What a loader reports about an adapter, in a few lines of plain text."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ..algebra import Decomposed
from ..formats import STEM, Adapter
from .match import Match
from .resolve import NameMap

OTHERWISE = "otherwise"
"""In place of the stock loader's scale: it does not compute what the trainer does."""


def describe(
    adapter: Adapter,
    matches: Sequence[Match],
    names: NameMap,
    stock: Mapping[Any, float | str | None],
    sizes: Sequence[float],
    strength: float,
) -> str:
    """The report: name, format, rank, alpha and its source, scale, coverage, stock loading, and size of the change.

    `stock` maps (key, cut) to the scale that the stock loader would use, None or `OTHERWISE`. `sizes` are `|dW| / |W|`
    of some changes.
    """
    architecture = names.architecture.name if names.architecture else "by the host's own names"
    path = adapter.file.path
    source = adapter.alpha_source.replace(f"{path.parent}{os.sep}", "")  # of files beside it, the names say enough
    lines = [
        f"adapter: {adapter.name} of {path.parent.name if path.stem == STEM else path.name}",
        f"format: {adapter.format}, on {architecture}",
        f"rank: {_listed(adapter.ranks)}; alpha: {_listed(adapter.alphas)}, from {source}",
        f"scale: {_listed(sorted({change.scale for change in adapter.changes}))}, times strength {strength:g}",
        f"matched: {len(matches)} of {len(adapter.changes)} changes, "
        f"on {len({match.target.key for match in matches})} weights",
        f"stock ComfyUI would load this {_stock(matches, stock)}",
    ]
    if sizes:
        lines.append(f"size of the change: {median(sizes) * abs(strength):.2%} of the weights (median of {len(sizes)})")
    if adapter.ignored:
        lines.append(f"ignored on purpose: {len(adapter.ignored)} text-encoder keys ({adapter.ignored[0]}, ...)")
    return "\n".join(lines)


def _listed(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:4])
    return (shown or "none") + (f", ... ({len(values)} values)" if len(values) > 4 else "")


def _stock(matches: Sequence[Match], stock: Mapping[Any, float | str | None]) -> str:
    """What the stock loader would make of the adapter, against its true scale: `at 0.5x ...`, `not at all`, ..."""
    placed = [(match, (match.target.key, match.target.cut)) for match in matches]
    found = [(match, stock[place]) for match, place in placed if place in stock]
    if not found:
        return "not at all"
    part = "" if len(found) == len(matches) else f", but only {len(found)} of {len(matches)} changes"
    if any(isinstance(match.term, Decomposed) for match, _ in found):
        return f"with other arithmetic (DoRA){part}"
    if any(scale == OTHERWISE for _, scale in found):
        return f"with other arithmetic than the trainer's{part}"
    ratios = sorted(
        {
            round(scale / match.change.scale, 6) if scale is not None and match.change.scale else 1.0
            for match, scale in found
        }
    )
    if ratios == [1.0]:
        return f"the same{part}" if not part else f"at its true strength{part}"
    return f"at {_listed(ratios)}x its true strength{part}"
