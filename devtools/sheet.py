"""A contact sheet: pictures in rows and columns under labels that can be read."""

from PIL import Image, ImageDraw, ImageFont

INK, QUIET, PAPER = "#1b1b1f", "#6b6b76", "#ffffff"
GAP = 10


def contact_sheet(rows, columns, title, row_labels, cell=192):
    """Return one picture of `rows` (lists of PIL images, one list a row).

    `columns` are (label, note) pairs, `row_labels` one text a row; every picture is shown `cell` pixels wide.
    """
    left, top = GAP, 118
    height = cell + GAP + 30
    sheet = Image.new("RGB", (left + len(columns) * (cell + GAP), top + len(rows) * height + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((left, 14), title, INK, font(24))
    for x, (label, note) in enumerate(columns):
        middle = left + x * (cell + GAP) + cell // 2
        draw.text((middle, 72), label, INK, font(26), anchor="mm")
        draw.text((middle, 98), note, QUIET, font(16), anchor="mm")
    for y, (pictures, label) in enumerate(zip(rows, row_labels, strict=True)):
        draw.text((left, top + y * height), label, INK, font(20))
        for x, picture in enumerate(pictures):
            sheet.paste(enlarged(picture, cell), (left + x * (cell + GAP), top + y * height + 28))
    return sheet


def enlarged(picture, cell):
    """Return a picture `cell` pixels wide; small ones by whole pixels, so that nothing is smoothed away."""
    whole = cell % picture.width == 0
    size = (cell, round(cell * picture.height / picture.width))
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS)


def font(size):
    """Return Pillow's own font, which needs no file of the system's."""
    return ImageFont.load_default(size)
