"""The templates' thumbnails, and for those that run as they are the picture they give, which carries its workflow.

The editor lays badges over the upper and lower edge of a thumbnail: what is to be seen stands in the middle.
"""

import io
import json
from pathlib import Path

from PIL import Image, ImageDraw

from ..server import Server
from ..sheet import font
from .graph import Workflow

SIZE, WIDE, HIGH = 512, 480, 280
PAPER, INK, QUIET, LINE = "#1b1b1f", "#ffffff", "#a9a9b4", "#88aa88"


def thumbnail(picture: Image.Image) -> Image.Image:
    """A picture in the middle of a square, small ones enlarged by whole pixels."""
    factor = min(WIDE / picture.width, HIGH / picture.height)
    size = [round(side * (int(factor) if factor >= 1 else factor)) for side in picture.size]
    shown = picture.resize(size, Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS)
    card = Image.new("RGB", (SIZE, SIZE), PAPER)
    card.paste(shown, ((SIZE - shown.width) // 2, (SIZE - shown.height) // 2))
    return card


def title_card(workflow: Workflow) -> Image.Image:
    """For a public model: its name and the dial, since no picture of it was made here."""
    card = Image.new("RGB", (SIZE, SIZE), PAPER)
    draw = ImageDraw.Draw(card)
    name = workflow.name.removeprefix("With ")
    size = next(size for size in range(44, 8, -2) if draw.textlength(name, font(size)) <= WIDE)
    draw.text((SIZE // 2, 215), name, INK, font(size), anchor="mm")
    left, right, y = 80, SIZE - 80, 280
    draw.line((left, y, right, y), LINE, 6)
    for place, label in ((0, "base"), (0.5, "RL model"), (1, "beyond")):
        x = left + place * (right - left)
        draw.ellipse((x - 9, y - 9, x + 9, y + 9), LINE)
        draw.text((x, y + 32), label, QUIET, font(20), anchor="mm")
    x = left + 0.75 * (right - left)
    draw.ellipse((x - 16, y - 16, x + 16, y + 16), INK)
    return card


def example(server: Server, api: dict, graph: dict) -> bytes:
    """The PNG that the graph saves, with the workflow in it, as the editor has it saved."""
    outputs = server.run(api, extra={"extra_pnginfo": {"workflow": graph}})
    return server.image(outputs["save"]["images"][0])


def write_pictures(server: Server, workflow: Workflow, root: Path) -> None:
    """Thumbnail and example of one template, whose files are written."""
    at = root / "workflows" / f"{workflow.name}.jpg"
    if workflow.name.startswith("With "):
        title_card(workflow).save(at, quality=90)
        return
    api, graph = (
        json.loads((root / folder / f"{workflow.name}.json").read_text(encoding="utf-8"))
        for folder in ("workflows/api", "workflows")
    )
    data = example(server, api, graph)
    (root / "docs" / "examples" / f"{workflow.name}.png").write_bytes(data)
    thumbnail(Image.open(io.BytesIO(data)).convert("RGB")).save(at, quality=90)
