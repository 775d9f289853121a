"""What is refused before anything is sampled: all of it at once, each with its place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from devtools.console import nearest

from .graph import Graph, canonical, is_link
from .recipe import Recipe
from .spec import Spec

if TYPE_CHECKING:
    from .worker import Facts

DYNAMIC = "COMFY_"
"""Types of inputs that other inputs bring along begin so; only the host can judge those."""

Literal = tuple[str, str, Any]
"""A node's class, the name of an input, and a value that is written into it."""


def problems(recipe: Recipe, spec: Spec, workers: Sequence[Facts]) -> list[str]:
    """Return everything that keeps a sweep from running on these workers."""
    graphs = list(graphs_of(recipe, spec))
    found = [*differences(workers)]
    for facts in workers:
        own = [*missing(graphs, facts.nodes), *unknown(recipe, facts.nodes), *wrong(graphs, facts.nodes)]
        found += [f"{facts.where}: {problem}" for problem in own]
    return found


def graphs_of(recipe: Recipe, spec: Spec) -> Iterator[Graph]:
    """Yield graphs that hold, together, every value of every axis; not every combination of them."""
    first = {axis.name: axis.values[0] for axis in spec.axes}
    yield from (recipe.bare(first, scale) for scale in spec.scale.values)
    for axis in spec.axes:
        for value in axis.values:
            yield recipe.graphs(first | {axis.name: value}, spec.scale.values)[0][0]


def literals(graphs: Iterable[Graph]) -> list[Literal]:
    """Return all that is written into graphs, each once."""
    every = (
        (node["class_type"], name, value)
        for graph in graphs
        for node in graph.values()
        for name, value in node["inputs"].items()
        if not is_link(value)
    )
    return list({canonical(literal): literal for literal in every}.values())


def differences(workers: Sequence[Facts]) -> Iterator[str]:
    """Yield in what the workers differ, where the same is expected of all."""
    for what, of in {"ComfyUI": lambda w: w.host, "this pack": lambda w: w.pack, "the nodes": _schema}.items():
        found = {of(worker): worker.where for worker in workers}
        if len(found) > 1:
            shown = "; ".join(f"{version} on {where}" for version, where in found.items() if what != "the nodes")
            yield f"the workers differ in {what}: {shown or ', '.join(found.values())}"
    for name in sorted({name for worker in workers for name in worker.files}):
        contents = {worker.files[name]: worker.where for worker in workers if name in worker.files}
        if len(contents) > 1:
            yield f"{name!r} is not the same file on {' and '.join(contents.values())}"


def _schema(worker: Facts) -> str:
    """Return the nodes and their inputs, without the values that their lists offer."""
    return canonical({kind: sorted(_declared(worker.nodes, kind)) for kind in sorted(worker.nodes)})


def _declared(nodes: Mapping[str, Any], kind: str) -> dict[str, list]:
    """Return {input: its declaration} of a node's class."""
    return {
        name: told for part in ("required", "optional") for name, told in nodes[kind]["input"].get(part, {}).items()
    }


def missing(graphs: Iterable[Graph], nodes: Mapping[str, Any]) -> list[str]:
    """Return the nodes that a worker does not know, and the inputs that nodes lack."""
    found = {}
    for key, node in ((key, node) for graph in graphs for key, node in graph.items()):
        kind = node["class_type"]
        if kind not in nodes:
            found[f"there is no node {kind!r} (node {key} of the workflow)"] = True
            continue
        needed = nodes[kind]["input"].get("required", {})
        for name in (n for n, told in needed.items() if n not in node["inputs"] and not _is_dynamic(told)):
            found[f"node {key} ({kind}) lacks its input {name!r}"] = True
    return list(found)


def unknown(recipe: Recipe, nodes: Mapping[str, Any]) -> list[str]:
    """Return the swept inputs that their nodes do not have: a value there would not count."""
    found = []
    for axis, targets in recipe.targets.items():
        for key, name in targets:
            kind = recipe.graph[key]["class_type"]
            inputs = _declared(nodes, kind) if kind in nodes else {name: ()}
            if name not in inputs and not any(map(_is_dynamic, inputs.values())):
                near = nearest(name, inputs)
                found.append(f"[inputs.{axis}]: node {key} ({kind}) has no input {name!r}{near}")
    return found


def wrong(graphs: Iterable[Graph], nodes: Mapping[str, Any]) -> list[str]:
    """Return the values that an input does not take: of another type, out of range, or not in its list."""
    found = []
    for kind, name, value in literals(graphs):
        told = _declared(nodes, kind).get(name) if kind in nodes else None
        expected = _expected(told, value) if told else ""
        if expected:
            found.append(f"{kind}.{name} = {value!r}: expected {expected}")
    return found


def _expected(told: Sequence, value: Any) -> str:
    """Return what an input expects, "" where `value` is that, or where only the host can tell."""
    limits, options = _limits(told), _options(told)
    if isinstance(value, (list, dict)):
        return ""
    if options is not None:
        return "" if value in options or _is_upload(limits) else _listed(options, value)
    return _range(told[0], limits, value) if told[0] in ("INT", "FLOAT") else ""


def _range(kind: str, limits: Mapping[str, Any], value: Any) -> str:
    low, high = limits.get("min", -math.inf), limits.get("max", math.inf)
    name = "a whole number" if kind == "INT" else "a number"
    try:
        good = low <= float(value) <= high and (kind == "FLOAT" or float(value).is_integer())
    except ValueError:
        good = False
    return "" if good else f"{name} from {low} to {high}"


def _limits(told: Sequence) -> Mapping[str, Any]:
    return told[1] if len(told) > 1 and isinstance(told[1], Mapping) else {}


def _options(told: Sequence) -> list | None:
    """Return the values of a list, None where an input has none or its list is not told."""
    if isinstance(told[0], list):
        return told[0]
    return _limits(told).get("options") if told[0] == "COMBO" else None


def _is_upload(limits: Mapping[str, Any]) -> bool:
    """Tell whether a list is of uploaded files, which may be named with their folder too."""
    return any(name.endswith("_upload") for name in limits)


def _listed(options: Sequence, value: Any) -> str:
    shown = ", ".join(map(str, options[:8])) + (", ..." if len(options) > 8 else "")
    return f"one of {shown or 'nothing: the list is empty'}{nearest(str(value), map(str, options))}"


def _is_dynamic(told: Sequence) -> bool:
    return bool(told) and isinstance(told[0], str) and told[0].startswith(DYNAMIC)


def is_choice(nodes: Mapping[str, Any], kind: str, name: str) -> bool:
    """Tell whether an input takes a value of a list: only those name files."""
    return kind in nodes and name in _declared(nodes, kind) and _options(_declared(nodes, kind)[name]) is not None
