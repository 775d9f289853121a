"""A declared workflow as the graph editor's file."""

import uuid
from typing import Any

from .api import inputs
from .graph import Node, Workflow
from .layout import Box, boxes
from .schema import Kind

NAMESPACE = uuid.UUID("3c5b7ad4-6a5c-5d0e-9f41-6b1f5f0d2a77")
PACK = "custom_nodes."
OTHERS, OURS = "#3f789e", "#88AA88"
NOTE = "How to use it"


def to_editor(workflow: Workflow, known: dict[str, Kind], host: str, pack: str) -> dict[str, Any]:
    """The file; `host` and `pack` are the versions that its nodes are said to come from."""
    placed, frames, note = boxes(workflow, known)
    ids = {node.key: index for index, node in enumerate(workflow.nodes(), 1)}
    links = all_links(workflow, known, ids)
    nodes = [
        in_editor(node, known[node.kind], ids, placed[node.key], links, pack if is_own(known[node.kind]) else host)
        for node in workflow.nodes()
    ]
    return {
        "id": str(uuid.uuid5(NAMESPACE, workflow.name)),
        "revision": 0,
        "last_node_id": len(nodes) + 1,
        "last_link_id": len(links),
        "nodes": [*nodes, in_note(workflow.note, len(nodes) + 1, note)],
        "links": links,
        "groups": [
            in_group(index, group.title, frame, any(is_own(known[node.kind]) for node in group.nodes))
            for index, (group, frame) in enumerate(zip(workflow.groups, frames, strict=True), 1)
        ],
        "config": {},
        "extra": {"ds": {"scale": 0.6, "offset": [140, 110]}},
        "version": 0.4,
    }


def all_links(workflow: Workflow, known: dict[str, Kind], ids: dict[str, int]) -> list[list]:
    """[id, from node, from slot, to node, to slot, type] of every link."""
    links: list[list] = []
    for node in workflow.nodes():
        for slot, given in enumerate(known[node.kind].inputs):
            source = node.values.get(given.name)
            if isinstance(source, tuple):
                end = (ids[source.key], source.slot, ids[node.key], slot, given.type)
                links.append([len(links) + 1, *end])
    return links


def is_own(kind: Kind) -> bool:
    """Whether a class is of this pack, not of ComfyUI."""
    return kind.module.startswith(PACK)


def in_editor(node: Node, kind: Kind, ids: dict[str, int], box: Box, links: list[list], version: str) -> dict[str, Any]:
    """One node."""
    number = ids[node.key]
    into = {link[4]: link[0] for link in links if link[3] == number}
    values = inputs(node, kind)
    found = {
        "id": number,
        "type": node.kind,
        "pos": [box.x, box.y],
        "size": [box.width, box.height],
        "flags": {},
        "order": number,
        "mode": 0,
        "inputs": [in_input(given, into.get(slot)) for slot, given in enumerate(kind.inputs)],
        "outputs": [
            {"name": name, "type": kind_of, "links": [link[0] for link in links if link[1:3] == [number, slot]] or None}
            for slot, (name, kind_of) in enumerate(kind.outputs)
        ],
        "properties": properties(node, kind, version),
        "widgets_values": [value for given in kind.widgets for value in (values[given.name], *given.extra)],
    }
    return found | ({"title": node.title} if node.title else {})


def in_input(given: Any, link: int | None) -> dict[str, Any]:
    """One input; optional sockets are drawn hollow, which is shape 7."""
    found = {"name": given.name, "type": given.type}
    if given.is_widget:
        found["widget"] = {"name": given.name}
    elif given.is_optional:
        found["shape"] = 7
    return found | {"link": link}


def properties(node: Node, kind: Kind, version: str) -> dict[str, Any]:
    """Which pack a node is from, and the files that the editor offers to download."""
    found: dict[str, Any] = {
        "cnr_id": "rl-guidance" if is_own(kind) else "comfy-core",
        "ver": version,
        "Node name for S&R": node.kind,
    }
    models = [{"name": file.name, "url": file.url, "directory": file.directory} for file in node.files()]
    return found | ({"models": models} if models else {})


def in_note(text: str, number: int, box: Box) -> dict[str, Any]:
    """The note, which stands first."""
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": [box.x, box.y],
        "size": [box.width, box.height],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": NOTE,
        "properties": {},
        "widgets_values": [text],
        "color": "#432",
        "bgcolor": "#653",
    }


def in_group(number: int, title: str, box: Box, own: bool) -> dict[str, Any]:
    """One frame; those of the pack's own nodes have another colour."""
    return {
        "id": number,
        "title": title,
        "bounding": [box.x, box.y, box.width, box.height],
        "color": OURS if own else OTHERS,
        "font_size": 24,
        "flags": {},
    }
