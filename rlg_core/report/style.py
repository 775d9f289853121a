"""The colours and the typeface that all plots and sheets of this pack share."""

from __future__ import annotations

from PIL import ImageFont

INK, FAINT, PAPER, ACCENT = (38, 40, 46), (222, 224, 230), (255, 255, 255), (0, 114, 178)


def font(size: int) -> ImageFont.FreeTypeFont:
    """The typeface that comes with PIL, at `size` pixels."""
    return ImageFont.load_default(size=size)
