"""`python -m devtools.artwork`: draw docs/icon.png and docs/banner.png, which the registry shows."""

import math

from PIL import Image, ImageDraw

from .paths import ROOT

ICON, BANNER = (400, 400), (1344, 576)  # the registry asks for at most 400 x 400, and for 21:9
FINE = 4  # drawn so many times larger, then made smaller: smooth edges
BACKGROUND, TRACK, TEXT = "#1b1f27", "#3a4150", "#f2f4f8"
BASE, RL, BEYOND = (104, 132, 176), (92, 184, 140), (240, 168, 72)
FIRST, LAST = 150, 390  # degrees of the dial's ends, clockwise from the right
SCALES = (0.0, 1.0, 3.0)
HAND = 1.9  # the scale that the hand shows


def main():
    """Draw both."""
    for name, size in (("icon", ICON), ("banner", BANNER)):
        path = ROOT / "docs" / f"{name}.png"
        drawn(size).save(path, optimize=True)
        print(path)


def drawn(size):
    """A dial in the middle of a picture; what is wider than high gets pictures of noise and form on its sides."""
    width, height = (FINE * length for length in size)
    image = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    if width > height:
        tiles(draw, width, height)
    dial(draw, width / 2, height * 0.56, height * 0.36)
    return image.resize(size, Image.LANCZOS)


def dial(draw, x, y, radius):
    """A track from scale 0 by way of 1 to 3, its marks, and the hand."""
    box, thick = (x - radius, y - radius, x + radius, y + radius), radius * 0.2
    for degree in range(FIRST, LAST, 2):
        draw.arc(box, degree, degree + 3, colour((degree - FIRST) / (LAST - FIRST) * SCALES[-1]), round(thick))
    for scale in SCALES:
        draw.line([point(x, y, radius * share, scale) for share in (0.74, 0.66)], TRACK, round(thick / 4))
    tip = point(x, y, radius * 0.72, HAND)
    draw.line([(x, y), tip], TEXT, round(thick / 3))
    for share, fill in ((0.14, TEXT), (0.07, BACKGROUND)):
        r = radius * share
        draw.ellipse((x - r, y - r, x + r, y + r), fill)


def tiles(draw, width, height):
    """Columns of tiles on both sides: from the base's colour on the left to what lies beyond the RL model."""
    side = height / 6
    columns = [k for k in range(math.ceil(width / side)) if abs((k + 0.5) * side - width / 2) > height * 0.5]
    for column in columns:
        for row in range(6):
            share = (column + 0.5) * side / width
            fade = 0.25 + 0.35 * ((column * 7 + row * 5) % 4) / 3
            left, top, gap = column * side, row * side, side * 0.06
            fill = mixed(BACKGROUND_RGB, colour(share * SCALES[-1]), fade)
            draw.rounded_rectangle((left + gap, top + gap, left + side - gap, top + side - gap), side * 0.1, fill)


BACKGROUND_RGB = tuple(int(BACKGROUND[k : k + 2], 16) for k in (1, 3, 5))


def colour(scale):
    """The colour of a scale: that of the base at 0, of the RL model at 1, and warmer beyond."""
    return mixed(BASE, RL, scale) if scale <= 1 else mixed(RL, BEYOND, (scale - 1) / (SCALES[-1] - 1))


def mixed(first, second, share):
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def point(x, y, radius, scale):
    """Where a scale lies on a circle."""
    angle = math.radians(FIRST + (LAST - FIRST) * scale / SCALES[-1])
    return x + radius * math.cos(angle), y + radius * math.sin(angle)


if __name__ == "__main__":
    main()
