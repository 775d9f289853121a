"""`python dev.py demo`: what the dial does to three adapters of the demo model, on a real server, as sheets."""

import argparse
import io
import json
import os
import sys
import time
from dataclasses import dataclass

from . import hosts
from .console import Failure, end_in_order, say
from .paths import HOME, ROOT
from .server import MODELS, RunFailed, Server

WORKFLOW = ROOT / "workflows" / "api" / "RLG One Picture.json"
ROLES = (
    *("base", "clip", "vae", "rl_adapter", "guidance", "positive", "negative"),
    *("latent", "sampler", "decode", "save"),
)
PROMPTS = ("one red triangle", "two green squares", "three blue circles", "three purple triangles")
NOISES, SEED = 4, 0
SETTINGS = {"seed": SEED, "steps": 10, "cfg": 1.0}  # as the adapters were trained


@dataclass(frozen=True)
class Way:
    """A column of a sheet: RLG at a scale, or the adapter alone at a LoRA strength."""

    scale: float
    is_strength: bool = False

    @property
    def label(self):
        return f"LoRA strength {self.scale:g}" if self.is_strength else f"scale {self.scale:g}"

    @property
    def note(self):
        return "" if self.is_strength else {0: " (base)", 1: " (RL model)"}.get(self.scale, "")


WAYS = (Way(0), Way(1), Way(2), Way(4), Way(4, is_strength=True))


@dataclass(frozen=True)
class Sheet:
    """One adapter, what it was trained for, and how that is told below each column's name."""

    name: str
    adapter: str
    title: str
    told: str


SHEETS = (
    Sheet("composition", "rlg-demo/rl-composition", "Trained for the right number, colour and shape", ""),
    Sheet("brightness", "rlg-demo/rl-brightness", "Trained for brightness", "brightness {brightness:.2f}"),
    Sheet(
        "compressibility", "rlg-demo/rl-jpeg", "Trained for small files: where it breaks", "{kilobytes:.1f} kB as JPEG"
    ),
)


def options(arguments):
    """Refuse every argument: there is nothing to choose."""
    parser = argparse.ArgumentParser(
        prog="python dev.py demo",
        description="Sample three adapters of the demo model at several scales on a real server; leave one sheet each.",
    )
    return parser.parse_args(arguments)


def main(arguments):
    """Sample every prompt in every way, save pictures and sheets, say where."""
    options(arguments)
    if not any(MODELS.glob("*/*")):
        raise Failure(f"The demo models are missing from {MODELS}: check the repository out again.")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the demo model is too small to share out among cores
    host = hosts.from_environment()
    out = HOME / "demo"
    say(f"starting ComfyUI {host.version}")
    with Server(host, HOME / "server") as server:
        say("the server is up; sampling")
        for sheet in SHEETS:
            path = draw(
                sheet, out, {way: [pictures(server, out, sheet, way, prompt) for prompt in PROMPTS] for way in WAYS}
            )
            say(f"{sheet.title}: {path}")
    say(f"{len(SHEETS) * len(WAYS) * len(PROMPTS) * NOISES} pictures are in {out}")


def draw(sheet, out, rows):
    """Put `rows` (by way, a list of pictures per prompt) on one sheet, each marked right or wrong; return its path."""
    from . import sheet as drawing  # here: options are read on a Python without Pillow

    blocks = []
    for way, found in rows.items():
        verdicts = [right(pictures, prompt) for pictures, prompt in zip(found, PROMPTS, strict=True)]
        count = sum(map(sum, verdicts))
        told = f"{count} of {len(PROMPTS) * NOISES} right"
        if sheet.told:
            told += ", " + sheet.told.format(**measured(found))
        blocks.append(drawing.Block(way.label + way.note, told, found, verdicts))
    title = f"{sheet.title}. The same {NOISES} noises for each prompt and column; green: the picture is as asked."
    path = out / f"{sheet.name}.png"
    drawing.marked_sheet(title, PROMPTS, blocks).save(path)
    return path


def right(pictures, prompt):
    """For each picture, whether a program finds number, colour and shape as asked."""
    from rlg_core.rewards import scenes

    asked = scenes.parse(prompt)
    return [scenes.correct(found, asked) for found in scenes.find(stacked(pictures))]


def measured(rows):
    """Mean brightness and file size of all pictures in a column."""
    pictures = [picture for row in rows for picture in row]
    return {
        "brightness": float(stacked(pictures).mean()),
        "kilobytes": sum(map(jpeg_size, pictures)) / len(pictures) / 1000,
    }


def jpeg_size(picture):
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=95)
    return data.tell()


def stacked(pictures):
    """Pictures as a tensor [n, h, w, 3] in [0, 1]."""
    import numpy as np
    import torch

    return torch.stack([torch.from_numpy(np.asarray(picture, np.float32) / 255) for picture in pictures])


def pictures(server, out, sheet, way, prompt):
    """Queue a graph, save the pictures it gives, and return them."""
    from PIL import Image

    started = time.time()
    name = f"{sheet.name}, {prompt}, {way.label}"
    outputs = server.run(graph(sheet.adapter, way, prompt), lambda node, value, steps: bar(name, value, steps))
    data = [server.image(image) for image in next(o["images"] for o in outputs.values() if o.get("images"))]
    out.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(data, 1):
        (out / f"{name} {number}.png").write_bytes(content)
    say(f"{name}: {time.time() - started:.1f} s")
    return [Image.open(io.BytesIO(content)).convert("RGB") for content in data]


def graph(adapter, way, prompt):
    """Return the shipped workflow's nodes with an adapter, a way of applying it and a prompt put in."""
    shipped = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    nodes = {role: shipped[role] for role in ROLES}
    nodes["rl_adapter"]["inputs"] |= {"lora_name": adapter, "strength": way.scale if way.is_strength else 1.0}
    nodes["guidance"]["inputs"]["scale"] = 1.0 if way.is_strength else float(way.scale)
    nodes["positive"]["inputs"]["text"] = prompt
    nodes["latent"]["inputs"]["batch_size"] = NOISES
    nodes["sampler"]["inputs"] |= SETTINGS
    return nodes


def bar(what, value, steps):
    """Show the step on a terminal, and nothing where the output goes to a file."""
    if sys.stdout.isatty():
        print(f"\r          {what}: step {value} of {steps} ", end="\r", flush=True)


if __name__ == "__main__":
    end_in_order()
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except (Failure, RunFailed) as failure:
        say(f"failed: {failure}")
        sys.exit(1)
