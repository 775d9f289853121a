"""The sweep file: which inputs of which nodes take which values, and which rewards judge the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import tomllib
import yaml

from devtools.console import Failure

from . import axis as axis_table
from .axis import Axis, require_table

SCALE, PROMPT, SEED = "scale", "prompt", "seed"
EVERYTHING = "all prompts"
"""The group of prompts that were listed without groups."""

COLUMNS = ("unit", "group", "item", "picture", "thumbnail", "seconds", "worker")
"""Columns of the table that are not for inputs or rewards."""

PARSERS = {".toml": tomllib.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load}


@dataclass(frozen=True)
class Reward:
    """A reward as Load RLG Reward names it, and what the table calls it."""

    name: str
    reward: str
    folder: str = "none"


@dataclass(frozen=True)
class Run:
    """How the graph is run.

    `pictures` is the node that saves them ("": the only one that does), `together` whether the scales of a unit may
    share a sampling run, and `timeout` the seconds that a unit may take.
    """

    pictures: str = ""
    together: bool = True
    timeout: float = 1800.0


@dataclass(frozen=True)
class Spec:
    """A sweep: the scales, the other axes (prompt, seed, then any others), the rewards, and each prompt's group."""

    scale: Axis
    axes: tuple[Axis, ...]
    groups: Mapping[str, str]
    rewards: tuple[Reward, ...] = ()
    run: Run = Run()

    def axis(self, name: str) -> Axis:
        return next(axis for axis in (self.scale, *self.axes) if axis.name == name)

    def to_json(self) -> dict[str, Any]:
        """Return the sweep as JSON holds it: all that its pictures and scores depend on."""
        run = asdict(self.run)
        del run["timeout"]
        return {
            "scale": self.scale.to_json(),
            "axes": [axis.to_json() for axis in self.axes],
            "groups": dict(self.groups),
            "rewards": [asdict(reward) for reward in self.rewards],
            "run": run,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Spec:
        """Return the sweep that `to_json` wrote."""
        axes = [Axis.from_json(axis) for axis in (content["scale"], *content["axes"])]
        rewards = tuple(Reward(**reward) for reward in content["rewards"])
        return cls(axes[0], tuple(axes[1:]), content["groups"], rewards, Run(**content["run"]))

    @property
    def settings(self) -> tuple[Axis, ...]:
        """The axes besides scale, prompt and seed: an adapter, say, or a CFG scale."""
        return tuple(axis for axis in self.axes if axis.name not in (PROMPT, SEED))

    def names(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return {axis: name} of the rows among a unit's values."""
        return {axis.name: values[axis.name] for axis in self.axes if axis.rows}

    def beside(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return {input: value} of what the rows among a unit's values set."""
        found = [axis.by_name[values[axis.name]] for axis in self.axes if axis.rows]
        return {name: value for row in found for name, value in row.items()}


def read(path: Path) -> Spec:
    """Return the sweep that a TOML or YAML file describes. Raises Failure, naming file and key, where it is wrong."""
    if path.suffix not in PARSERS:
        raise Failure(f"{path}: expected a sweep file that ends in {', '.join(PARSERS)}.")
    if not path.is_file():
        raise Failure(f"There is no sweep file {path.resolve()}.")
    try:
        return _spec(PARSERS[path.suffix](path.read_text(encoding="utf-8")), path.parent)
    except (tomllib.TOMLDecodeError, yaml.YAMLError, Failure) as error:
        raise Failure(f"{path}: {error}") from error


def _spec(content: Any, folder: Path) -> Spec:
    content = require_table(content, "the file", {"inputs", "rewards", "run"}, {"inputs"})
    inputs = require_table(content["inputs"], "[inputs]", None, {SCALE, PROMPT, SEED})
    axes = {name: axis_table.read(name, table) for name, table in inputs.items() if name != PROMPT}
    groups, axes[PROMPT] = _prompts(inputs[PROMPT], folder)
    scale = axes.pop(SCALE)
    order = [PROMPT, SEED, *(name for name in axes if name not in (PROMPT, SEED))]
    judged = require_table(content.get("rewards", {}), "[rewards]")
    rewards = tuple(_reward(name, value) for name, value in judged.items())
    beside = dict.fromkeys(name for axis in axes.values() for row in axis.rows for name in row)
    _distinct_names([*inputs, *beside, *(reward.name for reward in rewards)])
    return Spec(_numbers(scale), tuple(axes[name] for name in order), groups, rewards, _run(content.get("run", {})))


def _prompts(value: Any, folder: Path) -> tuple[dict[str, str], Axis]:
    """Return {prompt: group} and the axis, of lists or of files of lines; a table of those has groups.

    A row's name is its prompt: what rewards are asked with.
    """
    table = require_table(value, f"[inputs.{PROMPT}]", {"at", "values", "file"})
    if ("values" in table) == ("file" in table):
        raise Failure(f"[inputs.{PROMPT}]: expected either values or file.")
    given = table.get("values", table.get("file"))
    named = given if isinstance(given, dict) else {EVERYTHING: given}
    lists = {name: _lines(folder / value) if "file" in table else value for name, value in named.items()}
    for prompts in lists.values():
        axis_table.require_list(PROMPT, prompts)
    axis = axis_table.of(PROMPT, table, [prompt for prompts in lists.values() for prompt in prompts])
    if not all(isinstance(prompt, str) for prompt in axis.values):
        raise Failure(f"[inputs.{PROMPT}] values: expected texts, found {list(axis.values)!r}.")
    groups = [name for name, prompts in lists.items() for _ in prompts]
    return dict(zip(axis.values, groups)), axis


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise Failure(f"[inputs.{PROMPT}] file: there is no {path.resolve()}.")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _reward(name: str, value: Any) -> Reward:
    table = {"reward": value} if isinstance(value, str) else value
    return Reward(name, **require_table(table, f"[rewards] {name}", {"reward", "folder"}, {"reward"}))


def _distinct_names(names: list[str]) -> None:
    for name in names:
        if name in COLUMNS or names.count(name) > 1:
            taken = "the table has a column of its own of that name" if name in COLUMNS else "it is there twice"
            raise Failure(f"{name!r} is no name for an input or a reward: {taken}.")


def _numbers(scale: Axis) -> Axis:
    if scale.rows:
        raise Failure(f"[inputs.{SCALE}] values: expected numbers, no tables: the scales of a unit share all else.")
    wrong = [value for value in scale.values if isinstance(value, (str, bool))]
    if wrong:
        raise Failure(f"[inputs.{SCALE}] values has {wrong[0]!r}: expected numbers.")
    return replace(scale, values=tuple(map(float, scale.values)))


def _run(value: Any) -> Run:
    table = require_table(value, "[run]", {field.name for field in fields(Run)})
    kinds = {"pictures": str, "together": bool, "timeout": (int, float)}
    for name, given in table.items():
        if not isinstance(given, kinds[name]) or (name == "timeout" and not given > 0):
            raise Failure(f"[run] {name} = {given!r}: expected {_KINDS[name]}.")
    return Run(**table)


_KINDS = {"pictures": "the id of a node, as text", "together": "true or false", "timeout": "seconds, above 0"}
