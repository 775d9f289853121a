"""The contact sheet: a row of pictures per prompt, a column per scale, under labels that can be read."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

INK, QUIET, PAPER = "#1b1b1f", "#6b6b76", "#ffffff"
GAP, TOP, LINE = 10, 118, 30


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    columns: Sequence[tuple[str, str]],
    title: str,
    row_labels: Sequence[str],
    cell: int,
) -> Image.Image:
    """Return one picture of `rows`. `columns` are (label, note) pairs; every picture is shown `cell` pixels wide."""
    height = cell + GAP + LINE
    sheet = Image.new("RGB", (GAP + len(columns) * (cell + GAP), TOP + len(rows) * height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 14), title, INK, font(24))
    for x, (label, note) in enumerate(columns):
        middle = GAP + x * (cell + GAP) + cell // 2
        draw.text((middle, 72), label, INK, font(26), anchor="mm")
        draw.text((middle, 98), note, QUIET, font(16), anchor="mm")
    for y, (pictures, label) in enumerate(zip(rows, row_labels, strict=True)):
        draw.text((GAP, TOP + y * height), label, INK, font(20))
        for x, picture in enumerate(pictures):
            sheet.paste(fitted(picture, cell), (GAP + x * (cell + GAP), TOP + y * height + LINE - 2))
    return sheet


def fitted(picture: Image.Image, cell: int) -> Image.Image:
    """Return a picture in a square of `cell` pixels, whole; small ones by whole pixels, so that all of theirs show."""
    scale = cell / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    whole = scale == int(scale)
    resized = picture.convert("RGB").resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)
    square = Image.new("RGB", (cell, cell), PAPER)
    square.paste(resized, ((cell - size[0]) // 2, (cell - size[1]) // 2))
    return square


def font(size: int) -> ImageFont.ImageFont:
    """Return Pillow's own font, which needs no file of the system's."""
    return ImageFont.load_default(size)
