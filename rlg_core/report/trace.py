"""Shows a trace as panels over the steps."""

from __future__ import annotations

from collections.abc import Sequence

from ..trace import TraceEntry, linearised_statement
from .plot import Curve, Panel, number

PANELS = {
    "scale": "effective scale w",
    "difference": "|v_rl - v_base|, root mean square",
    "norm_ratio": "|v_rl| / |v_base|",
    "share": "guidance's share of the prediction",
    "angle": "degrees between guidance and CFG",
    "risk": "error of the skipped steps, seen at the next",
    "path_kl": "KL from the base, nats",
}
MOST_IMAGES = 6


def panels(entries: Sequence[TraceEntry]) -> list[Panel]:
    """One panel per quantity, with one curve per image (the first few). Titles tell of skipped steps and the check."""
    images = sorted({entry.image for entry in entries})[:MOST_IMAGES]
    return [
        _panel(entries, images, name, title)
        for name, title in PANELS.items()
        if any(getattr(entry, name) is not None for entry in entries)
    ]


def _panel(entries: Sequence[TraceEntry], images: Sequence[int], name: str, title: str) -> Panel:
    curves = []
    for image in images:
        own = [e for e in entries if e.image == image and getattr(e, name) is not None]
        curves.append(
            Curve([e.step for e in own], [getattr(e, name) for e in own], f"image {image}" if len(images) > 1 else "")
        )
    return Panel(curves, title + _note(entries, name), "step", "")


def _note(entries: Sequence[TraceEntry], name: str) -> str:
    """The end of a panel's title: skipped steps for `difference`, the linearised check for `share`, KL's sum."""
    if name == "share":
        statement = linearised_statement(entries)
        return f"; {statement}" if statement else ""
    if name == "path_kl":
        images = len({entry.image for entry in entries})
        return f"; {number(sum(entry.path_kl or 0.0 for entry in entries) / images)} in all"
    skipped = sorted({entry.step for entry in entries if "base" not in entry.evaluated and len(entry.evaluated) > 0})
    if not skipped or name != "difference":
        return ""
    return f", base not evaluated at {len(skipped)} of {len({e.step for e in entries})} steps"
