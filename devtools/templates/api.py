"""A declared workflow as the HTTP API's graph: {key: {class_type, inputs, _meta}}."""

from typing import Any

from .files import Demo, File, Folder, Listed
from .graph import Node, Out, Workflow
from .schema import Kind


def to_api(workflow: Workflow, known: dict[str, Kind]) -> dict[str, Any]:
    """The graph, with every widget written out. Raises ValueError for what a node does not have."""
    return {
        node.key: {
            "class_type": node.kind,
            "inputs": inputs(node, known[node.kind]),
            "_meta": {"title": node.title or known[node.kind].title},
        }
        for node in workflow.nodes()
    }


def inputs(node: Node, kind: Kind) -> dict[str, Any]:
    """Widgets with their values and sockets with their links, in the node's own order."""
    names = [given.name for given in kind.inputs]
    unknown = set(node.values) - set(names)
    if unknown:
        raise ValueError(f"{node.key}: {node.kind} has no input {', '.join(sorted(unknown))}, but {', '.join(names)}")
    found = {}
    for given in kind.inputs:
        if given.name in node.values:
            found[given.name] = plain(node.values[given.name])
        elif given.is_widget:
            found[given.name] = given.default
        elif not given.is_optional:
            raise ValueError(f"{node.key}: {node.kind} needs {given.name}")
    return found


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Out):
        return [value.key, value.slot]
    return value.value if isinstance(value, Demo | File | Folder | Listed) else value
