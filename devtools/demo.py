"""`python dev.py demo`: the demo pair at several scales on a real server, and one labelled contact sheet."""

import argparse
import io
import json
import os
import sys
import time

from . import hosts
from .console import Failure, end_in_order, say
from .paths import HOME, ROOT
from .server import MODELS, RunFailed, Server

WORKFLOW = ROOT / "workflows" / "api" / "Reinforcement Learning Guidance.json"
SCALES = (0, 0.5, 1, 1.5, 2, 3)
NOTES = {0: "base model", 1: "RL model"}
PROMPTS = ("three red circles", "two blue squares", "one yellow triangle", "three purple squares")
SEED = 7


def options(arguments):
    """Refuse every argument: there is nothing to choose."""
    parser = argparse.ArgumentParser(
        prog="python dev.py demo",
        description="Sample the demo pair at several scales on a real server and leave a labelled contact sheet.",
    )
    return parser.parse_args(arguments)


def main(arguments):
    """Sample every prompt at every scale, save pictures and sheet, say where."""
    from .sheet import contact_sheet  # here: options are read on a Python without Pillow

    options(arguments)
    if not any(MODELS.glob("*/*")):
        raise Failure(f"The demo models are missing from {MODELS}: check the repository out again.")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the demo model is too small to share out among cores
    host = hosts.from_environment()
    out = HOME / "demo"
    say(f"starting ComfyUI {host.version}")
    with Server(host, HOME / "server") as server:
        say("the server is up; sampling")
        rows = [[picture(server, out, prompt, scale) for scale in SCALES] for prompt in PROMPTS]
    sheet = out / "contact sheet.png"
    labels = [(f"{scale:g}", NOTES.get(scale, "between" if scale < 1 else "beyond")) for scale in SCALES]
    title = f"Reinforcement Learning Guidance with {adapter_name()}: one seed, the scale goes up"
    contact_sheet(rows, labels, title, PROMPTS).save(sheet)
    say(f"{len(SCALES) * len(PROMPTS)} pictures are in {out}")
    say(f"the contact sheet: {sheet}")


def picture(server, out, prompt, scale):
    """Queue the shipped workflow for a prompt and a scale, save the picture it gives, and return it."""
    from PIL import Image

    started = time.time()
    graph = with_inputs(prompt, scale)
    outputs = server.run(graph, lambda node, value, steps: bar(f"{prompt}, scale {scale:g}", value, steps))
    image = next(output["images"][0] for output in outputs.values() if output.get("images"))
    data = server.image(image)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{prompt}, scale {scale:g}.png").write_bytes(data)
    say(f"{prompt}, scale {scale:g}: {time.time() - started:.1f} s")
    return Image.open(io.BytesIO(data))


def adapter_name():
    """Return the name of the RL adapter that the shipped workflow loads."""
    return only(json.loads(WORKFLOW.read_text(encoding="utf-8")), "RLGAdapterLoader")["inputs"]["lora_name"]


def with_inputs(prompt, scale):
    """Return the shipped workflow with a prompt, a scale and the seed put in."""
    graph = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    sampler = only(graph, "KSampler")
    only(graph, "RLGApply")["inputs"]["scale"] = scale
    sampler["inputs"]["seed"] = SEED
    graph[sampler["inputs"]["positive"][0]]["inputs"]["text"] = prompt
    return graph


def only(graph, kind):
    """Return the one node of a class in an API-format graph."""
    (node,) = (node for node in graph.values() if node["class_type"] == kind)
    return node


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
