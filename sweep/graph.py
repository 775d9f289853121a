"""Graphs in the API format: {node id: {"class_type": ..., "inputs": {name: value, or [node id, output]}}}."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from devtools.console import Failure, nearest

Graph = dict[str, dict[str, Any]]
Target = tuple[str, str]
"""A node's id and the name of one of its inputs."""


def read(path: Path) -> Graph:
    """Return the graph of a workflow file. Raises Failure where it is none in the API format."""
    if not path.is_file():
        raise Failure(f"There is no workflow {path.resolve()}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Failure(f"{path} is no JSON: {error}.") from error
    if not isinstance(content, dict) or not content or not all(map(_is_node, content.values())):
        raise Failure(f"{path} is no workflow in the API format: export it with Workflow > Export (API).")
    return {
        key: {"class_type": node["class_type"], **_title(node), "inputs": node["inputs"]}
        for key, node in content.items()
    }


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and "class_type" in value and isinstance(value.get("inputs"), dict)


def _title(node: Mapping) -> dict:
    title = (node.get("_meta") or {}).get("title")
    return {"_meta": {"title": title}} if title else {}


def is_link(value: Any) -> bool:
    """Tell whether an input is wired: [node id, output]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def find(graph: Graph, target: str) -> Target:
    """Return the node and the input that "node.input" names, the node by its id, its title or its class.

    Raises Failure where there is no such node, or more than one.
    """
    cuts = [k for k, letter in enumerate(target) if letter == "."]
    for cut in cuts:
        found = named(graph, target[:cut])
        if len(found) == 1:
            return found[0], target[cut + 1 :]
        if found:
            raise Failure(
                f"{target!r}: {len(found)} nodes are called {target[:cut]!r}; name one by its id: {', '.join(found)}."
            )
    names = [*graph, *(name for node in graph.values() for name in (node["class_type"], _called(node)) if name)]
    raise Failure(f"{target!r}: the workflow has no such node{nearest(target.partition('.')[0], names)}.")


def named(graph: Graph, name: str) -> list[str]:
    """Return the ids of the nodes with an id, else a title, else a class."""
    if name in graph:
        return [name]
    titled = [key for key, node in graph.items() if _called(node) == name]
    return titled or [key for key, node in graph.items() if node["class_type"] == name]


def _called(node: Mapping) -> str:
    return node.get("_meta", {}).get("title", "")


def put(graph: Graph, values: Mapping[Target, Any]) -> Graph:
    """Return a copy of a graph with values in some inputs."""
    changed = copy.deepcopy(graph)
    for (node, name), value in values.items():
        changed[node]["inputs"][name] = value
    return changed


def needed(graph: Graph, outputs: Iterable[str]) -> Graph:
    """Return the part of a graph that the nodes `outputs` depend on, themselves included."""
    found, waiting = set(), list(outputs)
    while waiting:
        key = waiting.pop()
        if key not in found:
            found.add(key)
            waiting += [value[0] for value in graph[key]["inputs"].values() if is_link(value)]
    return {key: node for key, node in graph.items() if key in found}


def pictures(graph: Graph, chosen: str) -> list:
    """Return the link that carries the pictures: the input `images` of the node `chosen`, or of the only saver.

    Raises Failure where that is not one.
    """
    savers = [chosen] if chosen else [k for k, n in graph.items() if n["class_type"] in ("SaveImage", "PreviewImage")]
    if chosen and chosen not in graph:
        raise Failure(f"[run] pictures = {chosen!r}: the workflow has no such node.")
    if len(savers) != 1:
        raise Failure(
            f"The workflow has {len(savers)} nodes that save pictures: name one as [run] pictures = <its id>."
        )
    link = graph[savers[0]]["inputs"].get("images")
    if not is_link(link):
        raise Failure(
            f"Node {savers[0]} ({graph[savers[0]]['class_type']}) has no wired input 'images' to take pictures from."
        )
    return link


def canonical(value: Any) -> str:
    """Return the one JSON text that stands for a value: what hashes are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
