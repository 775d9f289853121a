"""Pictures with captions, and contact sheets of them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw
from torch import Tensor

from ..pictures import to_tensor
from .style import ACCENT, INK, PAPER, font


def captioned(picture: Image.Image, text: str, accent: bool = False) -> Image.Image:
    """`picture` with a line of text below it, on a strip in the accent colour if it is to stand out."""
    size = max(13, min(22, picture.width // 12))
    while size > 9 and font(size).getlength(text) > picture.width - 6:
        size -= 1
    strip = round(max(13, min(22, picture.width // 12)) * 1.8)
    out = Image.new("RGB", (picture.width, picture.height + strip), ACCENT if accent else PAPER)
    out.paste(picture, (0, 0))
    centre = (picture.width / 2, picture.height + strip / 2)
    ImageDraw.Draw(out).text(centre, text, fill=PAPER if accent else INK, font=font(size), anchor="mm")
    return out


def contact_sheet(rows: Sequence[Sequence[Image.Image]], gap: int = 8) -> Tensor:
    """Pictures of one size in rows, with white between and around them: [height, width, 3]."""
    cell_width, cell_height = rows[0][0].size
    columns = max(len(row) for row in rows)
    size = (columns * (cell_width + gap) + gap, len(rows) * (cell_height + gap) + gap)
    sheet = Image.new("RGB", size, PAPER)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            sheet.paste(cell, (gap + x * (cell_width + gap), gap + y * (cell_height + gap)))
    return to_tensor(sheet)
