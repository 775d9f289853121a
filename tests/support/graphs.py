"""The shipped API workflows, and small changes to them."""

import copy
import io
import json

from PIL import Image

from devtools.paths import ROOT

GRAPHS = sorted((ROOT / "workflows" / "api").glob("*.json"))
PUBLIC = [path for path in GRAPHS if path.stem.startswith("With ")]
"""Those for public models, whose files are not here; tests/host/test_public_templates.py has small ones."""

WORKFLOWS = [path for path in GRAPHS if path not in PUBLIC]
MAIN = ROOT / "workflows" / "api" / "RLG One Picture.json"
STARTER = ROOT / "workflows" / "api" / "Reinforcement Learning Guidance.json"


def load(path=MAIN):
    """Return a shipped graph."""
    return json.loads(path.read_text(encoding="utf-8"))


def node(graph, kind):
    """Return (id, node) of the one node of a class."""
    (found,) = ((key, value) for key, value in graph.items() if value["class_type"] == kind)
    return found


def changed(graph, kind, **inputs):
    """Return a copy of a graph with other inputs on the one node of a class."""
    graph = copy.deepcopy(graph)
    node(graph, kind)[1]["inputs"].update(inputs)
    return graph


def without_guidance(graph, model):
    """Return a copy of a graph whose sampler takes RLGApply's input `model` or `rl_model`, not its output."""
    graph = copy.deepcopy(graph)
    key, apply = node(graph, "RLGApply")
    for value in graph.values():
        value["inputs"] = {k: apply["inputs"][model] if v == [key, 0] else v for k, v in value["inputs"].items()}
    del graph[key]
    return graph


def pixels(server, graph, progress=lambda node, value, steps: None):
    """Run a graph and return the pixels of its first picture, as bytes."""
    outputs = server.run(graph, progress)
    image = next(output["images"][0] for output in outputs.values() if output.get("images"))
    return Image.open(io.BytesIO(server.image(image))).convert("RGB").tobytes()


def forget(server):
    """Have the server drop its cached results and models, so that the next run computes everything."""
    server.read("/free", {"unload_models": True, "free_memory": True})
