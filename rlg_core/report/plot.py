"""Line plots, drawn with PIL alone. Pictures are [height, width, 3] in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw
from torch import Tensor

from ..pictures import to_tensor
from .style import ACCENT, FAINT, INK, PAPER, font

COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))
"""The palette of Okabe and Ito, which colour-blind readers can tell apart too."""

MOST_BELOW = 3
"""Panels below each other that fit a screen."""

SHARPNESS = 2
"""Plots are drawn this many times larger and scaled down, since PIL does not smooth lines."""

LEFT, RIGHT, TOP, BOTTOM = 78, 22, 44, 56
TEXT, SMALL = 15, 13


@dataclass(frozen=True)
class Curve:
    """Points (x, y) with bars of y +- `error`, joined by a line or not. Points that are not finite are left out."""

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    error: Sequence[float] | None = None
    joined: bool = True
    dots: bool = True

    def points(self) -> list[tuple[float, float, float]]:
        """The finite points with their errors (0 if there is none)."""
        errors = self.error or [0.0] * len(self.x)
        return [
            (x, y, e if math.isfinite(e) else 0.0)
            for x, y, e in zip(self.x, self.y, errors)
            if math.isfinite(x) and math.isfinite(y)
        ]


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `marks` are positions on the x axis to point out, with their text."""

    curves: Sequence[Curve]
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    marks: Mapping[float, str] = field(default_factory=dict)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About `count` round numbers that span [low, high]: multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / max(count - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def number(value: float) -> str:
    """A tick or score in its shortest readable form: four significant digits, no trailing zeros."""
    return f"{0.0 if abs(value) < 1e-12 else value:.4g}"


def _limits(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    spread = high - low or max(abs(high), 1.0) * 0.1
    return low - margin * spread, high + margin * spread


class _Axes:
    """Maps data coordinates of one panel to pixels of the plot."""

    def __init__(self, panel: Panel, width: int, height: int):
        points = [point for curve in panel.curves for point in curve.points()]
        self.x_low, self.x_high = _limits([x for x, _, _ in points], 0.03)
        self.y_low, self.y_high = _limits([y + sign * e for _, y, e in points for sign in (-1, 1)], 0.08)
        self.left, self.right = LEFT, width - RIGHT
        self.top, self.bottom = TOP, height - BOTTOM

    def x(self, value: float) -> float:
        return self.left + (value - self.x_low) / (self.x_high - self.x_low) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.y_low) / (self.y_high - self.y_low) * (self.bottom - self.top)


class _Pen:
    """Draws on the enlarged picture, in the pixels of the final one."""

    def __init__(self, picture: Image.Image):
        self.picture, self.draw = picture, ImageDraw.Draw(picture)

    def line(self, points: Sequence[tuple[float, float]], colour: tuple, width: float = 1.0) -> None:
        scaled = [(x * SHARPNESS, y * SHARPNESS) for x, y in points]
        self.draw.line(scaled, fill=colour, width=round(width * SHARPNESS), joint="curve")

    def dot(self, x: float, y: float, radius: float, colour: tuple) -> None:
        box = [(v + s * radius) * SHARPNESS for s in (-1, 1) for v in (x, y)]
        self.draw.ellipse(box, fill=colour)

    def text(self, x: float, y: float, text: str, size: int = TEXT, anchor: str = "mm", colour: tuple = INK) -> None:
        self.draw.text((x * SHARPNESS, y * SHARPNESS), text, fill=colour, font=font(size * SHARPNESS), anchor=anchor)

    def width(self, text: str, size: int) -> float:
        return font(size * SHARPNESS).getlength(text) / SHARPNESS

    def upright(self, x: float, y: float, text: str) -> None:
        """Text that reads upwards, centred on (x, y)."""
        face = font(TEXT * SHARPNESS)
        box = Image.new("L", (math.ceil(face.getlength(text)) + 4, TEXT * SHARPNESS * 2))
        ImageDraw.Draw(box).text((box.width / 2, box.height / 2), text, fill=255, font=face, anchor="mm")
        box = box.rotate(90, expand=True)
        at = (round(x * SHARPNESS - box.width / 2), round(y * SHARPNESS - box.height / 2))
        self.picture.paste(INK, at, box)


def _draw_frame(pen: _Pen, panel: Panel, axes: _Axes) -> None:
    for value in ticks(axes.y_low, axes.y_high):
        pen.line([(axes.left, axes.y(value)), (axes.right, axes.y(value))], FAINT)
        pen.text(axes.left - 8, axes.y(value), number(value), SMALL, "rm")
    for value in ticks(axes.x_low, axes.x_high, 8):
        pen.line([(axes.x(value), axes.bottom), (axes.x(value), axes.bottom + 5)], INK)
        pen.text(axes.x(value), axes.bottom + 9, number(value), SMALL, "mt")
    pen.line([(axes.left, axes.top), (axes.left, axes.bottom), (axes.right, axes.bottom)], INK, 1.2)
    pen.text(axes.left, axes.top - 26, panel.title, TEXT + 1, "lm")
    pen.text((axes.left + axes.right) / 2, axes.bottom + 40, panel.x_label)
    pen.upright(18, (axes.top + axes.bottom) / 2, panel.y_label)


def _draw_marks(pen: _Pen, panel: Panel, axes: _Axes) -> None:
    for value, text in panel.marks.items():
        x = axes.x(value)
        for y in range(round(axes.top), round(axes.bottom), 8):
            pen.line([(x, y), (x, y + 4)], ACCENT, 1.2)
        fits = x + 6 + pen.width(text, SMALL) < axes.right
        pen.text(x + (6 if fits else -6), axes.bottom - 12, text, SMALL, "lm" if fits else "rm", ACCENT)


def _draw_curve(pen: _Pen, curve: Curve, axes: _Axes, colour: tuple) -> None:
    points = curve.points()
    if curve.joined and len(points) > 1:
        pen.line([(axes.x(x), axes.y(y)) for x, y, _ in points], colour, 2.0)
    for x, y, error in points:
        if error > 0:
            low, high = axes.y(y - error), axes.y(y + error)
            pen.line([(axes.x(x), low), (axes.x(x), high)], colour, 1.2)
            for end in (low, high):
                pen.line([(axes.x(x) - 4, end), (axes.x(x) + 4, end)], colour, 1.2)
        if curve.dots:
            pen.dot(axes.x(x), axes.y(y), 3.6, colour)


def _draw_legend(pen: _Pen, panel: Panel, axes: _Axes) -> None:
    """Labels in one line above the axes, right-aligned, if there is more than one curve."""
    x = axes.right
    several = panel.curves if len(panel.curves) > 1 else []
    labelled = [(curve, COLOURS[k % len(COLOURS)]) for k, curve in enumerate(several) if curve.label]
    for curve, colour in reversed(labelled):
        pen.text(x, axes.top - 10, curve.label, SMALL, "rm")
        x -= pen.width(curve.label, SMALL) + 10
        pen.dot(x, axes.top - 10, 4, colour)
        x -= 18


def plot(panels: Sequence[Panel], width: int = 760, height: int = 380) -> Tensor:
    """The panels, each `width` x `height` pixels: below each other, or in two columns where there are more than three.

    Returns [rows * height, columns * width, 3].
    """
    columns = 1 if len(panels) <= MOST_BELOW else 2
    picture = Image.new("RGB", (columns * width, -(-len(panels) // columns) * height), PAPER)
    for k, panel in enumerate(panels):
        picture.paste(_drawn(panel, width, height), (k % columns * width, k // columns * height))
    return to_tensor(picture)


def _drawn(panel: Panel, width: int, height: int) -> Image.Image:
    picture = Image.new("RGB", (width * SHARPNESS, height * SHARPNESS), PAPER)
    pen, axes = _Pen(picture), _Axes(panel, width, height)
    _draw_frame(pen, panel, axes)
    _draw_marks(pen, panel, axes)
    for index, curve in enumerate(panel.curves):
        _draw_curve(pen, curve, axes, COLOURS[index % len(COLOURS)])
    _draw_legend(pen, panel, axes)
    return picture.resize((width, height), Image.LANCZOS)
