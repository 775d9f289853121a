"""From a workflow and a sweep to the graphs that are queued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from devtools.console import Failure

from .axis import Axis
from .graph import Graph, Target, find, is_link, needed, pictures, put
from .spec import PROMPT, SCALE, Reward, Spec
from .together import together, why_not

PICTURES, SCORES = "rlg-sweep-pictures", "rlg-sweep-scores-{}"
OWN_SCHEDULE = "schedule"


@dataclass(frozen=True)
class Recipe:
    """A workflow with the inputs that are swept: `targets[axis]`, and the link that carries the pictures.

    `rows[axis][name]` is what a row sets; axes of plain values are not in it. `apart` says why the scales of a unit run
    one after the other, "" where they share a sampling run.
    """

    graph: Graph
    targets: Mapping[str, tuple[Target, ...]]
    pictures: list
    rewards: tuple[Reward, ...]
    apart: str
    rows: Mapping[str, Mapping[Any, Mapping[Target, Any]]] = field(default_factory=dict)

    def graphs(self, values: Mapping[str, Any], scales: Sequence[float]) -> list[tuple[Graph, tuple[float, ...]]]:
        """Return the graphs to queue for a unit, each with the scales that it samples."""
        if self.apart:
            return [(self._scored(self.plain(values, scale), values[PROMPT]), (scale,)) for scale in scales]
        whole = together(self.changed(values), self.targets[SCALE], self.pictures, scales)
        return [(self._scored(whole, values[PROMPT]), tuple(scales))]

    def plain(self, values: Mapping[str, Any], scale: float) -> Graph:
        """Return the workflow with values and one scale put in: what makes one picture."""
        return self.changed({**values, SCALE: scale})

    def bare(self, values: Mapping[str, Any], scale: float) -> Graph:
        """Return the part of that workflow that the picture depends on."""
        return needed(self.plain(values, scale), [self.pictures[0]])

    def changed(self, values: Mapping[str, Any]) -> Graph:
        """Return the workflow with the values of some axes put in."""
        found: dict[Target, Any] = {}
        for axis, value in values.items():
            found |= self.rows[axis][value] if axis in self.rows else dict.fromkeys(self.targets[axis], value)
        return put(self.graph, found)

    def _scored(self, graph: Graph, prompt: str) -> Graph:
        """Return what the pictures of a graph need, with their scores told as text beside them."""
        graph = graph | {PICTURES: {"class_type": "PreviewImage", "inputs": {"images": self.pictures}}}
        for k, reward in enumerate(self.rewards):
            graph |= _score(k, reward, self.pictures, prompt)
        asked = needed(graph, [PICTURES, *(SCORES.format(k) for k in range(len(self.rewards)))])
        return {key: {name: node[name] for name in ("class_type", "inputs")} for key, node in asked.items()}


def _score(k: int, reward: Reward, link: list, prompt: str) -> Graph:
    loader, judge, told = f"rlg-sweep-reward-{k}", f"rlg-sweep-judge-{k}", SCORES.format(k)
    asked = {"image": link, "reward": [loader, 0], "prompt": prompt}
    return {
        loader: {"class_type": "RLGRewardLoader", "inputs": {"reward": reward.reward, "folder": reward.folder}},
        judge: {"class_type": "RLGReward", "inputs": asked},
        told: {"class_type": "PreviewAny", "inputs": {"source": [judge, 0]}},
    }


def recipe(graph: Graph, spec: Spec) -> Recipe:
    """Return how a sweep goes through a workflow. Raises Failure where a swept input is not there or is wired."""
    targets = {axis.name: tuple(find(graph, target) for target in axis.inputs) for axis in (spec.scale, *spec.axes)}
    link = pictures(graph, spec.run.pictures)
    _refuse_shared(targets)
    for name, found in targets.items():
        for target in found:
            _refuse(graph, name, target, needed(graph, [link[0]]))
    rows = {axis.name: _rows(axis, targets[axis.name]) for axis in spec.axes if axis.rows}
    found = Recipe(graph, targets, link, spec.rewards, "", rows)
    return replace(found, apart=_why_apart(found, spec) if spec.run.together else "[run] together = false")


def _rows(axis: Axis, targets: Sequence[Target]) -> dict[Any, dict[Target, Any]]:
    return {name: dict(zip(targets, axis.sets(k).values(), strict=True)) for k, name in enumerate(axis.values)}


def _why_apart(recipe: Recipe, spec: Spec) -> str:
    """Return why the scales of some unit cannot share a sampling run, "" where those of every unit can."""
    graphs = [recipe.graph, *(recipe.changed({axis.name: v}) for axis in spec.axes for v in axis.values)]
    reasons = (why_not(graph, recipe.targets[SCALE], recipe.pictures) for graph in graphs)
    return next(filter(None, reasons), "")


def _refuse_shared(targets: Mapping[str, Sequence[Target]]) -> None:
    """Raise Failure where an input is set more than once."""
    owners: dict[Target, str] = {}
    for axis, target in ((axis, target) for axis, found in targets.items() for target in found):
        if owners.get(target) == axis:
            raise Failure(f"[inputs.{axis}] sets {'.'.join(target)} twice.")
        if target in owners:
            raise Failure(f"[inputs.{axis}] and [inputs.{owners[target]}] both set {'.'.join(target)}.")
        owners[target] = axis


def _refuse(graph: Graph, axis: str, target: Target, used: Graph) -> None:
    """Raise Failure where a value put into `target` would not count."""
    node, name = target
    inputs, where = graph[node]["inputs"], f"[inputs.{axis}] at {'.'.join(target)}"
    if node not in used:
        raise Failure(f"{where}: the pictures do not depend on node {node} ({graph[node]['class_type']}).")
    if is_link(inputs.get(name)):
        raise Failure(f"{where}: that input is wired to node {inputs[name][0]}; sweep an input of that node.")
    if name == "scale" and graph[node]["class_type"] == "RLGApply" and is_link(inputs.get(OWN_SCHEDULE)):
        raise Failure(f"{where}: the schedule wired to node {node} replaces its scale; sweep an input of the schedule.")
