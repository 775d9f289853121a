"""An axis of a sweep: which inputs take which values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from devtools.console import Failure, nearest

from . import rows


@dataclass(frozen=True)
class Axis:
    """What is swept under `name`: each of `values` goes into every input that `at` names ("node.input").

    Where values are rows, `values` are their names and `rows` is what each of them sets besides.
    """

    name: str
    at: tuple[str, ...]
    values: tuple
    rows: tuple[Mapping[str, Any], ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs that every value sets, in the order of `sets`."""
        return (*self.at, *(self.rows[0] if self.rows else ()))

    @cached_property
    def by_name(self) -> Mapping[Any, Mapping[str, Any]]:
        """What each row sets beside `at`."""
        return dict(zip(self.values, self.rows))

    def sets(self, k: int) -> dict[str, Any]:
        """Return {input: value} of value k."""
        return dict.fromkeys(self.at, self.values[k]) | (self.rows[k] if self.rows else {})

    def to_json(self) -> dict[str, Any]:
        """Return the axis as JSON holds it: without rows just as before there were any, so that old folders go on."""
        own = {"name": self.name, "at": list(self.at), "values": list(self.values)}
        return own | ({"rows": [dict(row) for row in self.rows]} if self.rows else {})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Axis:
        """Return the axis that `to_json` wrote."""
        return cls(content["name"], tuple(content["at"]), tuple(content["values"]), tuple(content.get("rows", ())))


def read(name: str, value: Any) -> Axis:
    """Return the axis of a table with "values", or with "first" (else 0) and "count" for whole numbers in a row."""
    table = require_table(value, f"[inputs.{name}]", {"at", "values", "first", "count"})
    if ("values" in table) == ("count" in table) or ("values" in table and "first" in table):
        raise Failure(f"[inputs.{name}]: expected either values, or count (and first).")
    return of(name, table, table["values"] if "values" in table else _counted(name, table))


def of(name: str, table: Mapping[str, Any], values: Any) -> Axis:
    """Return the axis of plain values, which need a place "at" which they go in, or of rows, which set inputs too."""
    require_list(name, values)
    names, beside = rows.split(f"[inputs.{name}]", values)
    if "at" not in table and not (beside and beside[0]):
        raise Failure(f"[inputs.{name}] lacks 'at'.")
    at = _targets(name, table["at"]) if "at" in table else ()
    return Axis(name, at, _values(name, names), beside)


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


def require_list(name: str, values: Any) -> None:
    if not isinstance(values, list) or not values:
        raise Failure(f"[inputs.{name}] values: expected a list, found {values!r}.")


def _values(name: str, values: list) -> tuple:
    """Return values, or the names of rows. Raises Failure where they differ in kind or one is there twice."""
    rows.require_one_kind(f"[inputs.{name}] values", values)
    twice = {value for value in values if values.count(value) > 1}
    if twice:
        raise Failure(f"[inputs.{name}] values has {sorted(twice)[0]!r} more than once.")
    return tuple(values)


def require_table(value: Any, where: str, known: set | None = None, needed: set = frozenset()) -> dict:
    """Return `value`, a table with the `needed` keys and no key that is not `known` (None: any)."""
    if not isinstance(value, dict):
        raise Failure(f"{where}: expected a table, found {value!r}.")
    for key in value.keys() - (value.keys() if known is None else known):
        raise Failure(f"{where} has {key!r}: expected {', '.join(sorted(known))}{nearest(key, known)}.")
    for key in sorted(needed - value.keys()):
        raise Failure(f"{where} lacks {key!r}.")
    return value
