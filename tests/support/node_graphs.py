"""The nodes of a host by what they do in a graph, and a small graph for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from .every_node import OUTSIDE, QUICKLY, Graph, first_line, small_models
from .known_nodes import SAME_CODE, Given, values
from .node_inputs import Links, NoGraph, NoInput, call, has_model, inputs_of, outputs
from .sampling import Sampling
from .tensors import largest

FIRST, OTHERS = ("SD3", "SD1.5"), ("FLUX", "Wan", "Lumina2", "Qwen-Image", "SVD", "LTXV")
"""The layouts on which a node is looked at, those for most nodes first."""


def listed(
    host: SimpleNamespace, names: Iterable[str] | None = None, samplers: Iterable[str] = ()
) -> list[tuple[str, str]]:
    """(kind, name) of the nodes of `names` that have to do with a model, and of `samplers`; without names all stock."""
    if names is None:
        names, samplers = stock(host), host.comfy.samplers.SAMPLER_NAMES
    kinds = [(kind_of(host.classes[name]), name) for name in names]
    return sorted([(kind, name) for kind, name in kinds if kind] + [("sampler", name) for name in samplers])


def stock(host: SimpleNamespace) -> list[str]:
    """The nodes that the host has without this pack."""
    return [name for name in host.classes if not name.startswith("RLG")]


def kind_of(cls: type) -> str:
    """What a node makes that a run with RLG depends on; "" for all others."""
    made = outputs(cls)
    if "MODEL" in made:
        return "model" if has_model(cls) else ""
    if "GUIDER" in made or "SAMPLER" in made:
        return "guider" if "GUIDER" in made else "sampler node"
    return "sampling node" if "LATENT" in made and has_model(cls) else ""


def graph_of(host: SimpleNamespace, kind: str, node: str, given: Given) -> Graph:
    """Raises `NoGraph` for a node that needs more than it is given."""
    return GRAPHS[kind](host, node, given)


# Nodes that make a model of a model


def model_graph(host: SimpleNamespace, node: str, given: Given) -> Graph:
    """A graph of the node on the first layout where it shows, at its defaults or, if they change nothing, near them."""
    failed = []
    tries = [(given.layout, False), (given.layout, True)] if given.layout else attempts()
    for layout, is_moved in tries:
        graph = graph_on(host, host.classes[node], layout, given, is_moved)
        try:
            if not given.shows or shows(graph):
                return graph
        except NoInput:
            raise
        except Exception as error:
            failed.append(f"{layout}: {type(error).__name__}: {first_line(error)}")
    raise NoGraph("; ".join(["changes no picture of a small model here", *failed[:1]]))


def attempts() -> list[tuple[str, bool]]:
    return [(layout, is_moved) for some in (FIRST, OTHERS) for is_moved in (False, True) for layout in some]


def graph_on(host: SimpleNamespace, cls: type, layout: str, given: Given, is_moved: bool) -> Graph:
    models = small_models(host, layout)
    place, inputs = outputs(cls).index("MODEL"), values(given.inputs, models)
    settings = models.sampling(**values(given.settings, models))
    links = Links(models)

    def put_on(model):
        links.begin()
        if given.unloads:
            host.comfy.model_management.unload_all_models()
        return call(cls, inputs_of(cls, model, links, inputs, is_moved))[place]

    graph = Graph(models, lambda model: settings.run(host, model), put_on, tolerance=given.tolerance)
    graph.merged = given.merged
    if given.is_slow or SAME_CODE in {parent.__name__ for parent in cls.__mro__[1:]}:
        graph.scales = QUICKLY
    return graph


def shows(graph: Graph) -> bool:
    """Whether the node changes the picture of the plain model."""
    plain, bare = graph.expected(0.0), graph.sampled(graph.models.model)
    return plain.shape != bare.shape or largest(plain, bare) > 1e-4


# What samples: each works on the model that it gets


def sampler_graph(host: SimpleNamespace, name: str, given: Given) -> Graph:
    models = small_models(host, given.layout or "SD3")
    settings = models.sampling(sampler=name, steps=3, **values(given.settings, models))
    return Graph(models, lambda model: settings.run(host, model), places=("",), scales=OUTSIDE)


def sampler_node_graph(host: SimpleNamespace, node: str, given: Given) -> Graph:
    def run(settings, model, made):
        return replace(settings, sampler=made).run(host, model)

    return graph_with(host, node, given, "SAMPLER", run)


def guider_graph(host: SimpleNamespace, node: str, given: Given) -> Graph:
    return graph_with(host, node, given, "GUIDER", lambda settings, model, made: settings.run_with(host, made))


def sampling_node_graph(host: SimpleNamespace, node: str, given: Given) -> Graph:
    return graph_with(host, node, given, "LATENT", lambda settings, model, made: made["samples"])


def graph_with(
    host: SimpleNamespace, node: str, given: Given, kind: str, run: Callable[[Sampling, Any, Any], Any]
) -> Graph:
    """A graph that runs what the node makes of a model."""
    models, cls = small_models(host, given.layout or "SD3"), host.classes[node]
    links, inputs = Links(models), {"steps": 3, **values(given.inputs, models)}
    settings = models.sampling(**{"steps": 3, **values(given.settings, models)})

    seen = []

    def sampled(model):
        seen.append(model)  # some nodes tell models apart by their address, which must not be another's again
        links.begin()
        made = call(cls, inputs_of(cls, model, links, inputs))
        return run(settings, model, made[outputs(cls).index(kind)])

    return Graph(models, sampled, places=("",), scales=OUTSIDE)


GRAPHS: dict[str, Callable[[SimpleNamespace, str, Given], Graph]] = {
    "model": model_graph,
    "guider": guider_graph,
    "sampler": sampler_graph,
    "sampler node": sampler_node_graph,
    "sampling node": sampling_node_graph,
}
