"""The report of a results folder: pictures of it, and one HTML file that holds them all.

`python -m sweep.report RESULTS` makes it from what is there, also while the sweep still runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from devtools.console import Failure, say

from . import figures, page
from .spec import PROMPT, SCALE, SEED, Spec
from .store import Store
from .worker import short

HTML = "report.html"


@dataclass(frozen=True)
class Setting:
    """The rows of one setting: one adapter, say, at one CFG scale. `name` is "" where the sweep has one setting."""

    name: str
    rows: list[dict]


def write(store: Store) -> str:
    """Write the report of what a results folder has so far; return where it is. Raises Failure where it has nothing."""
    manifest = store.manifest()
    if manifest is None:
        raise Failure(f"{store.place} holds no sweep.")
    spec = Spec.from_json(manifest["spec"])
    rows = store.rows()
    if not rows:
        raise Failure(f"{store.place} has no finished unit yet.")
    order = {prompt: k for k, prompt in enumerate(spec.axis(PROMPT).values)}
    rows.sort(key=lambda row: (order[row[PROMPT]], row[SEED], row[SCALE], row["item"]))
    for row in rows:
        row["group"] = spec.groups[row[PROMPT]]
    sections = [figures.section(setting, spec, store) for setting in settings(rows, spec)]
    for section in sections:
        for name, picture in section.pictures.items():
            store.write_file(f"report/{name}.png", picture)
    store.write_table("results.parquet", short(rows))
    store.write_file(HTML, page.html(manifest, spec, sections, rows, store.failures()).encode("utf-8"))
    return store.path(HTML)


def settings(rows: Sequence[dict], spec: Spec) -> list[Setting]:
    """Return the rows by setting, in the order of the sweep file."""
    found = []
    for values in product(*(axis.values for axis in spec.settings)):
        chosen = dict(zip((axis.name for axis in spec.settings), values))
        own = [row for row in rows if all(row[name] == value for name, value in chosen.items())]
        if own:
            found.append(Setting(", ".join(f"{name} {value}" for name, value in chosen.items()), own))
    return found


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m sweep.report", description=__doc__.split("\n")[0])
    parser.add_argument("results", help="the results folder of a sweep, or its address")
    say(f"written: {write(Store(parser.parse_args(arguments).results))}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failure as failure:
        say(f"failed: {failure}")
        sys.exit(1)
