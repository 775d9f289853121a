"""Rows: values of an axis that set several inputs together, each a table.

    values = [{ name = "spo", "RLGAdapterLoader.lora_name" = "spo.safetensors", "KSampler.cfg" = 5.0 }, ...]

`name` is what the results call a row. It also goes into the inputs that the axis has in `at`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from devtools.console import Failure

NAME = "name"

KINDS = {str: "text", bool: "truth", int: "number", float: "number"}
"""What may go into an input."""


def split(where: str, values: list) -> tuple[list, tuple[dict[str, Any], ...]]:
    """Return the names of rows and {"node.input": value} of each; plain values and () where there are no tables.

    Raises Failure where rows do not all set the same inputs: one that leaves an input out would take whatever the
    workflow has there.
    """
    if not any(isinstance(value, dict) for value in values):
        return values, ()
    names = [_name(where, value) for value in values]
    rows = [_inputs(f"{where} row {name!r}", value) for name, value in zip(names, values)]
    for name, row in zip(names, rows):
        if row.keys() != rows[0].keys():
            raise Failure(
                f"{where} values: row {name!r} sets {_listed(row)}, row {names[0]!r} sets {_listed(rows[0])}: "
                "expected the same inputs in every row."
            )
    for target in rows[0]:
        require_one_kind(f"{where} {target}", [row[target] for row in rows])
    return names, tuple({target: row[target] for target in rows[0]} for row in rows)


def require_one_kind(where: str, values: list) -> None:
    """Raise Failure where values are not all of one kind: a column of the table holds one."""
    kinds = {KINDS.get(type(value)) for value in values}
    if len(kinds) > 1 or None in kinds:
        raise Failure(f"{where}: expected numbers alone, texts alone or true and false, found {values!r}.")


def _name(where: str, value: Any) -> Any:
    if not isinstance(value, dict):
        raise Failure(f"{where} values: expected tables alone or no tables, found {value!r}.")
    if NAME not in value:
        raise Failure(f"{where} values: {value!r} lacks {NAME!r}, which the table calls it by.")
    return value[NAME]


def _inputs(where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"node.input": value} of a row."""
    found: dict[str, Any] = {}
    for target, value in _flat({key: value for key, value in table.items() if key != NAME}):
        if "." not in target:
            raise Failure(f'{where}: {target!r}: expected "node.input", such as "KSampler.cfg", or {NAME!r}.')
        if target in found:
            raise Failure(f"{where} sets {target} twice.")
        found[target] = value
    return found


def _flat(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield "node.input" and value: TOML reads node.input without quotes as a table within a table."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _listed(row: Mapping[str, Any]) -> str:
    return ", ".join(row) or "nothing"
