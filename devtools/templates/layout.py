"""Where nodes, groups and the note stand, so that none lies on another.

Heights are those of the roomier of the editor's two renderers, so that its nodes fit too.
"""

from dataclasses import dataclass

from .graph import Group, Node, Workflow
from .schema import Kind

WIDTH, PREVIEW_WIDTH, NOTE_WIDTH = 380, 460, 520
TITLE, GAP, PADDING, COLUMN_GAP = 34, 66, 20, 60
SLOT, WIDGET, TEXT, PREVIEW = 24, 36, 130, 420
PREVIEWS = ("SaveImage", "SaveVideo", "LoadImage", "RLGSweepGrid", "RLGTracePlot", "RLGPickBest", "RLGSchedule")
TOLD = ("RLGAdapterLoader", "RLGCheckpointPairLoader", "RLGApply")
"""Nodes that show pictures, and nodes that show text, once they have run."""

LINE, CHARACTERS, NOTE_MARGIN = 21, 62, 70


@dataclass(frozen=True)
class Box:
    """A rectangle; a node's begins below its title bar."""

    x: int
    y: int
    width: int
    height: int


def boxes(workflow: Workflow, known: dict[str, Kind]) -> tuple[dict[str, Box], list[Box], Box]:
    """The nodes' boxes by key, the groups' in their order, and the note's."""
    nodes: dict[str, Box] = {}
    groups: dict[int, Box] = {}
    left = NOTE_WIDTH + COLUMN_GAP
    for column in sorted({group.column for group in workflow.groups}):
        members = [group for group in workflow.groups if group.column == column]
        width = max(width_of(node) for group in members for node in group.nodes)
        top = 0
        for group in members:
            placed, frame = stacked(group, known, left, top, width)
            nodes |= placed
            groups[workflow.groups.index(group)] = frame
            top = frame.y + frame.height + PADDING
        left += width + 2 * PADDING + COLUMN_GAP
    note = Box(0, TITLE, NOTE_WIDTH, note_height(workflow.note))
    return nodes, [groups[index] for index in sorted(groups)], note


def stacked(group: Group, known: dict[str, Kind], left: int, top: int, width: int) -> tuple[dict[str, Box], Box]:
    """The boxes of a group's nodes, one below the other, and of the group around them."""
    found, y = {}, top + TITLE + PADDING + TITLE
    for node in group.nodes:
        found[node.key] = Box(left + PADDING, y, width, height_of(node, known[node.kind]))
        y += found[node.key].height + GAP
    return found, Box(left, top, width + 2 * PADDING, y - GAP + PADDING - top)


def width_of(node: Node) -> int:
    return PREVIEW_WIDTH if node.kind in PREVIEWS else WIDTH


def height_of(node: Node, kind: Kind) -> int:
    """Sockets first, then widgets, then a preview where there is one."""
    sockets = max(len(kind.inputs) - len(kind.widgets), len(kind.outputs))
    widgets = sum((TEXT if given.is_multiline else WIDGET) + WIDGET * len(given.extra) for given in kind.widgets)
    return 20 + SLOT * sockets + widgets + PREVIEW * (node.kind in PREVIEWS) + TEXT * (node.kind in TOLD)


def note_height(text: str) -> int:
    """Lines as they wrap at the note's width."""
    return NOTE_MARGIN + LINE * sum(1 + len(line) // CHARACTERS for line in text.splitlines())
