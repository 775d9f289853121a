"""The nodes of a host by what they do in a graph, and a small graph for each."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from .every_node import SCALES, Graph, small_models
from .known_nodes import GIVEN, NOT_HERE, SAME_CODE, Given, values
from .node_inputs import Links, NoInput, call, declared, has_model, inputs_of, outputs
from .tensors import largest

FIRST, OTHERS = ("SD3", "SD1.5"), ("FLUX", "Wan", "Lumina2", "Qwen-Image", "SVD", "LTXV")
"""The layouts on which a node is looked at, those for most nodes first."""


def stock(host: SimpleNamespace) -> dict[str, type]:
    """Every node that the host had before the pack was loaded."""
    return {name: cls for name, cls in sorted(host.classes.items()) if not name.startswith("RLG")}


def model_nodes(host: SimpleNamespace) -> list[str]:
    """The nodes that make a model of a model."""
    return [name for name, cls in stock(host).items() if "MODEL" in outputs(cls) and has_model(cls)]


def makers(host: SimpleNamespace, kind: str) -> list[str]:
    """The nodes that make a sampler, a guider or noise levels, for any model or for theirs."""
    return [name for name, cls in stock(host).items() if kind in outputs(cls) and "MODEL" not in outputs(cls)]


def graph_of(host: SimpleNamespace, node: str) -> Graph:
    """A graph of the node on the first layout where it shows, at its defaults or, if they change nothing, near them."""
    given = GIVEN.get(node, Given())
    cls = host.classes[node]
    tries = [(given.layout, False), (given.layout, True)] if given.layout else attempts()
    refused = []
    for layout, is_moved in tries:
        graph = model_graph(host, cls, layout, given, is_moved)
        try:
            if not given.shows or shows(graph):
                return graph
        except NoInput as error:
            raise AssertionError(f"{node} {error}: give it one, or put it on the list of those that cannot run") from error
        except Exception as error:
            refused.append(f"{layout}: {error}")
    said = "; ".join(refused[:3])
    raise AssertionError(f"{node} changes no picture of any layout: give it inputs that do ({said or 'no error'})")


def attempts() -> list[tuple[str, bool]]:
    return [(layout, is_moved) for some in (FIRST, OTHERS) for is_moved in (False, True) for layout in some]


def model_graph(host: SimpleNamespace, cls: type, layout: str, given: Given, is_moved: bool) -> Graph:
    models = small_models(host, layout)
    place, inputs = outputs(cls).index("MODEL"), values(given.inputs, models)
    settings = models.sampling(**{"steps": 3, **values(given.settings, models)})
    links = Links(models)

    def put_on(model):
        links.begin()
        return call(cls, inputs_of(cls, model, links, inputs, is_moved))[place]

    graph = Graph(models, put_on, lambda model: settings.run(host, model), given.tolerance)
    if SAME_CODE in {parent.__name__ for parent in cls.__mro__[1:]}:
        graph.scales = (2.0,)
    return graph


def shows(graph: Graph) -> bool:
    """Whether the node changes the picture of the plain model."""
    plain, bare = graph.plain(), graph.sampled(graph.models.model)
    return plain.shape != bare.shape or largest(plain, bare) > 1e-4
