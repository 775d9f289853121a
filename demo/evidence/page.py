"""Text, tables and pictures of the page, made from numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from rlg_core.pictures import to_picture
from rlg_core.report.plot import Curve, Panel, number, plot

from .measure import Outcome
from .scores import CORRECT, DIVERSITY, SHIFT, STRUCTURE
from .statistics import Estimate, estimate

PLUS_MINUS = "\u00b1"
TITLES = {
    "brightness": "brightness",
    "jpeg": "compressibility (minus kB)",
    "composition": "composition",
    CORRECT: "scenes fully correct",
    DIVERSITY: "diversity",
    STRUCTURE: "diversity of structure",
    SHIFT: "shift from the base",
}
WORDS = {1: "higher", -1: "lower", 0: "no different within error"}


def summary(outcome: Outcome) -> dict[str, dict]:
    """The estimate of everything measured, ready for JSON."""
    spreads = {DIVERSITY: asdict(outcome.spread), STRUCTURE: asdict(estimate(outcome.structure))}
    return {name: asdict(outcome.of(name)) for name in outcome.values} | spreads


def read(value: Mapping) -> Estimate:
    return Estimate(**value)


def told(value: Mapping, digits: int = 3) -> str:
    """`0.512 +- 0.008`; without an interval where there is one value only."""
    estimate = read(value)
    mean = f"{estimate.mean:.{digits}f}"
    return mean if math.isnan(estimate.half) else f"{mean} {PLUS_MINUS} {estimate.half:.{digits}f}"


def signed(value: Mapping, digits: int = 3) -> str:
    text = told(value, digits)
    return text if text.startswith("-") else "+" + text


def listed(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`; `none` for nothing."""
    items = list(items)
    if len(items) < 2:
        return items[0] if items else "none"
    return ", ".join(items[:-1]) + " and " + items[-1]


def yes(truth: bool) -> str:
    return "**yes**" if truth else "**no**"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table; numbers in their short form."""
    cells = [[number(c) if isinstance(c, float) else str(c) for c in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return ["", *("| " + " | ".join(line) + " |" for line in lines), ""]


def crossed(value: Mapping) -> str:
    """`w = 1.6 (1.5 to 1.7)`, as `crossing_of_means` has it."""
    low, high = (("beyond the range" if end is None else f"{end:.2f}") for end in (value["low"], value["high"]))
    return "no w of the sweep" if value["at"] is None else f"w = {value['at']:.2f} ({low} to {high})"


def curve(xs: Sequence[float], values: Sequence[Mapping], label: str = "") -> Curve:
    """Means with their intervals against `xs`."""
    return Curve(list(xs), [v["mean"] for v in values], label, [v["half"] for v in values])


def level(xs: Sequence[float], value: float, label: str) -> Curve:
    """A horizontal line."""
    return Curve([min(xs), max(xs)], [value, value], label, dots=False)


class Figures:
    """Pictures beside the page: `add` saves one and returns the Markdown that shows it."""

    def __init__(self, page: Path):
        self.page = page
        self.folder = page.parent / "evidence"
        self.folder.mkdir(parents=True, exist_ok=True)

    def plot(self, name: str, title: str, panels: Sequence[Panel], height: int = 300) -> list[str]:
        return self.add(name, title, plot(panels, 760, height))

    def add(self, name: str, title: str, picture: Tensor) -> list[str]:
        path = self.folder / f"{name}.png"
        to_picture(picture).save(path, optimize=True)
        return ["", f"![{title}](evidence/{path.name})", ""]
