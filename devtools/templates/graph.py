"""A workflow as it is declared: nodes in groups, groups in columns, inputs by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import notes
from .files import Demo, File, Folder, Listed


class Out(NamedTuple):
    """An output of a node, as the value of another node's input."""

    key: str
    slot: int


@dataclass(frozen=True)
class Node:
    """A node by its key in the API's graph; what `values` does not name stays at the node's default."""

    key: str
    kind: str
    title: str
    values: dict[str, Any]

    def __getitem__(self, slot: int) -> Out:
        return Out(self.key, slot)

    def files(self) -> list[File]:
        """The files that its widgets name, each once."""
        named = [value for value in self.values.values() if isinstance(value, Demo | File | Folder | Listed)]
        return list(dict.fromkeys(file for value in named for file in value.files()))


@dataclass(frozen=True)
class Group:
    """A frame around nodes that belong together; `column` counts from the left."""

    title: str
    column: int
    nodes: list[Node] = field(default_factory=list)


class Workflow:
    """A template: its name is its file's, its note's and its title in the template browser."""

    def __init__(self, name: str):
        self.name = name
        self.groups: list[Group] = []

    @property
    def note(self) -> str:
        """The note's text, with the files that the nodes load."""
        return notes.text(self.name, self.files())

    @contextmanager
    def group(self, title: str, column: int) -> Iterator[None]:
        """Take what is added meanwhile into one frame."""
        self.groups.append(Group(title, column))
        yield

    def add(self, key: str, kind: str, title: str = "", **values: Any) -> Node:
        """Add a node to the newest group; an empty title is the node's own."""
        node = Node(key, kind, title, values)
        self.groups[-1].nodes.append(node)
        return node

    def nodes(self) -> list[Node]:
        """All nodes, in the order in which they were added."""
        return [node for group in self.groups for node in group.nodes]

    def files(self) -> list[File]:
        """The files that it loads, each once."""
        return list(dict.fromkeys(file for node in self.nodes() for file in node.files()))
