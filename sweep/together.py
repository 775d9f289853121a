"""All scales of a unit in one sampling run, through RLG Batch Sweep, where the graph allows it."""

from __future__ import annotations

from collections.abc import Sequence

from .graph import Graph, Target, is_link, needed, put

APPLY, BATCH = "RLGApply", "RLGBatchSweep"
NODE = "rlg-sweep-scales"
WHOLE = {"start_percent": 0.0, "end_percent": 1.0}
BUDGET = "RLGBudget"
ITEM_BY_ITEM = {"evaluate": ("exact", "linearised"), "tolerance": (0.0,), "experts": ("exact",)}
"""Settings of a budget, the neutral one first, under which an item comes out the same whatever shares its batch."""

DETERMINISTIC = ["euler", "heun", "dpm_2", "lms", "dpmpp_2m", "ddim", "deis", "ipndm", "res_multistep"]
"""Samplers that draw no noise of their own, so that an item comes out the same whatever shares its batch."""


def why_not(graph: Graph, scale: Sequence[Target], pictures: list) -> str:
    """Return why the scales of a unit cannot share a sampling run, "" where they can.

    `scale` are the inputs that are swept, `pictures` is the link that carries the pictures.
    """
    for node, name in scale:
        kind, inputs = graph[node]["class_type"], graph[node]["inputs"]
        if (kind, name) != (APPLY, "scale"):
            return f"{kind}.{name} is not the scale of {APPLY}"
        if "schedule" in inputs or any(inputs.get(key, value) != value for key, value in WHOLE.items()):
            return f"node {node} has a schedule or a window"
    used = needed(graph, [pictures[0]])
    for node, inputs in ((key, node["inputs"]) for key, node in used.items() if node["class_type"] == BUDGET):
        shared = [name for name, known in ITEM_BY_ITEM.items() if inputs.get(name, known[0]) not in known]
        if shared:
            return f"the {shared[0]} of node {node} (a budget) is one for a whole batch"
    found = samplers(used)
    if len(found) != 1:
        return f"{len(found)} nodes take a latent_image, where one is expected"
    name = sampler_name(graph, found[0])
    return "" if name in DETERMINISTIC else f"the sampler {name!r} is not among those known to draw no noise"


def samplers(graph: Graph) -> list[str]:
    """Return the nodes that sample: those with a wired latent_image."""
    return [key for key, node in graph.items() if is_link(node["inputs"].get("latent_image"))]


def sampler_name(graph: Graph, sampler: str) -> str:
    """Return the name of the sampler that a node uses, its own or that of the node behind its input `sampler`."""
    inputs = graph[sampler]["inputs"]
    if is_link(inputs.get("sampler")):
        inputs = graph[inputs["sampler"][0]]["inputs"]
    return str(inputs.get("sampler_name", ""))


def together(graph: Graph, scale: Sequence[Target], pictures: list, scales: Sequence[float]) -> Graph:
    """Return the graph that samples all `scales` as one batch: all pictures of the first, then those of the second."""
    (sampler,) = samplers(needed(graph, [pictures[0]]))
    latent = graph[sampler]["inputs"]["latent_image"]
    batch = {"class_type": BATCH, "inputs": {"latent": latent, "scales": ", ".join(f"{s:.12g}" for s in scales)}}
    rewired = {(sampler, "latent_image"): [NODE, 0]} | {(node, "schedule"): [NODE, 1] for node, _ in scale}
    return put(graph, rewired) | {NODE: batch}
