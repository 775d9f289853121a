"""A contact sheet: blocks of pictures side by side, each picture in a frame that says right or wrong."""

from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

INK, QUIET, PAPER, RIGHT, WRONG = "#1b1b1f", "#6b6b76", "#ffffff", "#1f9d4d", "#d63a3a"
GAP, BORDER, TOP, LINE = 24, 4, 92, 26


@dataclass(frozen=True)
class Block:
    """One way of sampling: `rows[r]` are the PIL images of row r, `verdicts[r]` whether each is right."""

    label: str
    note: str
    rows: list[Any]
    verdicts: list[list[bool]]


def marked_sheet(title, row_labels, blocks, cell=88):
    """Return one picture of `blocks`, side by side; each row has its label above it."""
    width = len(blocks[0].rows[0]) * cell
    height = TOP + len(row_labels) * (cell + LINE + 8)
    sheet = Image.new("RGB", (GAP + len(blocks) * (width + GAP), height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 10), title, INK, font(20))
    for x, block in enumerate(blocks):
        left = GAP + x * (width + GAP)
        draw.text((left, 42), block.label, INK, font(21))
        draw.text((left, 68), block.note, QUIET, font(16))
        for y, (pictures, verdicts, label) in enumerate(zip(block.rows, block.verdicts, row_labels, strict=True)):
            top = TOP + y * (cell + LINE + 8)
            draw.text((left, top + 4), label, QUIET, font(15))
            for k, (picture, is_right) in enumerate(zip(pictures, verdicts, strict=True)):
                sheet.paste(framed(picture, is_right, cell), (left + k * cell, top + LINE))
    return sheet


def framed(picture, is_right, cell):
    """Return the picture in a square of `cell` pixels, in a green frame if it is right, in a red one if not."""
    frame = Image.new("RGB", (cell - 4, cell - 4), RIGHT if is_right else WRONG)
    inner = cell - 4 - 2 * BORDER
    frame.paste(picture.convert("RGB").resize((inner, inner), Image.Resampling.LANCZOS), (BORDER, BORDER))
    return frame


def font(size):
    """Return Pillow's own font, which needs no file of the system's."""
    return ImageFont.load_default(size)
