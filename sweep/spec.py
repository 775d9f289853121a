"""The sweep file: which inputs of which nodes take which values, and which rewards judge the pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import tomllib
import yaml

from devtools.console import Failure, nearest

SCALE, PROMPT, SEED = "scale", "prompt", "seed"
EVERYTHING = "all prompts"
"""The group of prompts that were listed without groups."""

COLUMNS = ("unit", "group", "item", "picture", "thumbnail", "seconds", "worker")
"""Columns of the table that are not for inputs or rewards."""

PARSERS = {".toml": tomllib.loads, ".yaml": yaml.safe_load, ".yml": yaml.safe_load}


@dataclass(frozen=True)
class Axis:
    """What is swept under `name`: each of `values` goes into every input that `at` names ("node.input")."""

    name: str
    at: tuple[str, ...]
    values: tuple


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
        content = json.loads(json.dumps(asdict(self)))
        del content["run"]["timeout"]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Spec:
        """Return the sweep that `to_json` wrote."""
        axes = [Axis(a["name"], tuple(a["at"]), tuple(a["values"])) for a in (content["scale"], *content["axes"])]
        rewards = tuple(Reward(**reward) for reward in content["rewards"])
        return cls(axes[0], tuple(axes[1:]), content["groups"], rewards, Run(**content["run"]))

    @property
    def settings(self) -> tuple[Axis, ...]:
        """The axes besides scale, prompt and seed: an adapter, say, or a CFG scale."""
        return tuple(axis for axis in self.axes if axis.name not in (PROMPT, SEED))


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
    content = _table(content, "the file", {"inputs", "rewards", "run"}, {"inputs"})
    inputs = _table(content["inputs"], "[inputs]", None, {SCALE, PROMPT, SEED})
    groups, prompts = _prompts(_axis_table(PROMPT, inputs[PROMPT]), folder)
    axes = {name: _axis(name, table) for name, table in inputs.items() if name != PROMPT}
    axes[PROMPT] = Axis(PROMPT, _targets(PROMPT, inputs[PROMPT]["at"]), prompts)
    scale = axes.pop(SCALE)
    order = [PROMPT, SEED, *(name for name in axes if name not in (PROMPT, SEED))]
    rewards = tuple(_reward(name, value) for name, value in _table(content.get("rewards", {}), "[rewards]").items())
    _distinct_names([*inputs, *(reward.name for reward in rewards)])
    return Spec(_numbers(scale), tuple(axes[name] for name in order), groups, rewards, _run(content.get("run", {})))


def _table(value: Any, where: str, known: set | None = None, needed: set = frozenset()) -> dict:
    """Return `value`, a table with the `needed` keys and no key that is not `known` (None: any)."""
    if not isinstance(value, dict):
        raise Failure(f"{where}: expected a table, found {value!r}.")
    for key in value.keys() - (value.keys() if known is None else known):
        raise Failure(f"{where} has {key!r}: expected {', '.join(sorted(known))}{nearest(key, known)}.")
    for key in sorted(needed - value.keys()):
        raise Failure(f"{where} lacks {key!r}.")
    return value


def _axis_table(name: str, value: Any) -> dict:
    known = {"at", "values", "file"} if name == PROMPT else {"at", "values", "first", "count"}
    return _table(value, f"[inputs.{name}]", known, {"at"})


def _axis(name: str, value: Any) -> Axis:
    """Return the axis of a table with "values", or with "first" (else 0) and "count" for whole numbers in a row."""
    table = _axis_table(name, value)
    if ("values" in table) == ("count" in table) or ("values" in table and "first" in table):
        raise Failure(f"[inputs.{name}]: expected either values, or count (and first).")
    values = table["values"] if "values" in table else _counted(name, table)
    return Axis(name, _targets(name, table["at"]), _values(name, values))


def _counted(name: str, table: Mapping[str, Any]) -> list[int]:
    """Return "count" whole numbers in a row from "first", else from 0."""
    first, count = table.get("first", 0), table["count"]
    if type(first) is not int or type(count) is not int or count < 1:
        raise Failure(
            f"[inputs.{name}]: expected whole numbers, count 1 or more, found first = {first!r}, count = {count!r}."
        )
    return list(range(first, first + count))


def _targets(name: str, at: Any) -> tuple[str, ...]:
    """Return the inputs that an axis goes into: one "node.input", or a list of them."""
    targets = (at,) if isinstance(at, str) else at
    if (
        not isinstance(targets, (list, tuple))
        or not targets
        or not all(isinstance(target, str) and "." in target for target in targets)
    ):
        raise Failure(
            f'[inputs.{name}] at = {at!r}: expected "node.input", such as "KSampler.seed", or a list of them.'
        )
    return tuple(targets)


def _values(name: str, values: Any) -> tuple:
    if not isinstance(values, list) or not values:
        raise Failure(f"[inputs.{name}] values: expected a list, found {values!r}.")
    kinds = {_KINDS_OF_VALUES.get(type(value)) for value in values}
    if len(kinds) > 1 or None in kinds:
        raise Failure(
            f"[inputs.{name}] values: expected numbers alone, texts alone or true and false, found {values!r}."
        )
    twice = {value for value in values if values.count(value) > 1}
    if twice:
        raise Failure(f"[inputs.{name}] values has {sorted(twice)[0]!r} more than once.")
    return tuple(values)


_KINDS_OF_VALUES = {str: "text", bool: "truth", int: "number", float: "number"}
"""What a list of values may hold: one kind, for a column of the table holds one."""


def _prompts(table: dict, folder: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return {prompt: group} and the prompts, of lists or of files of lines; a table of those has groups."""
    if ("values" in table) == ("file" in table):
        raise Failure(f"[inputs.{PROMPT}]: expected either values or file.")
    given = table.get("values", table.get("file"))
    named = given if isinstance(given, dict) else {EVERYTHING: given}
    lists = {name: _lines(folder / value) if "file" in table else value for name, value in named.items()}
    for name, prompts in lists.items():
        _values(PROMPT, prompts)
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise Failure(f"[inputs.{PROMPT}] {name}: expected texts, found {prompts!r}.")
    every = _values(PROMPT, [prompt for prompts in lists.values() for prompt in prompts])
    return {prompt: name for name, prompts in lists.items() for prompt in prompts}, every


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise Failure(f"[inputs.{PROMPT}] file: there is no {path.resolve()}.")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _reward(name: str, value: Any) -> Reward:
    table = {"reward": value} if isinstance(value, str) else value
    return Reward(name, **_table(table, f"[rewards] {name}", {"reward", "folder"}, {"reward"}))


def _distinct_names(names: list[str]) -> None:
    for name in names:
        if name in COLUMNS or names.count(name) > 1:
            taken = "the table has a column of its own of that name" if name in COLUMNS else "it is there twice"
            raise Failure(f"{name!r} is no name for an input or a reward: {taken}.")


def _numbers(scale: Axis) -> Axis:
    wrong = [value for value in scale.values if isinstance(value, (str, bool))]
    if wrong:
        raise Failure(f"[inputs.{SCALE}] values has {wrong[0]!r}: expected numbers.")
    return replace(scale, values=tuple(map(float, scale.values)))


def _run(value: Any) -> Run:
    table = _table(value, "[run]", {field.name for field in fields(Run)})
    kinds = {"pictures": str, "together": bool, "timeout": (int, float)}
    for name, given in table.items():
        if not isinstance(given, kinds[name]) or (name == "timeout" and not given > 0):
            raise Failure(f"[run] {name} = {given!r}: expected {_KINDS[name]}.")
    return Run(**table)


_KINDS = {"pictures": "the id of a node, as text", "together": "true or false", "timeout": "seconds, above 0"}
