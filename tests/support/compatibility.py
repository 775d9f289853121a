"""What the lanes found of every node, and the page that says so.

`python -m tests.support.compatibility` writes docs/COMPATIBILITY.md from what the last runs of the lanes have left.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "COMPATIBILITY.md"
BEGIN, END = "<!-- from the tests: python -m tests.support.compatibility -->", "<!-- end -->"
STOCK = "ComfyUI"
LONGEST = 120
ABSENT, NOT_RUN = "-", "not run"


@dataclass(frozen=True)
class Verdict:
    """What a node did in one place: `right`, `refused`, `wrong` or `failed`, with the first line of what was said."""

    outcome: str
    said: str = ""

    def __str__(self) -> str:
        return f"{self.outcome}: {shortened(self.said)}" if self.said else self.outcome


@dataclass(frozen=True)
class Found:
    """What a run found of a node or sampler: a verdict for each place of RLG, or why it was `not_tried`."""

    kind: str
    node: str
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    not_tried: str = ""

    def __str__(self) -> str:
        """What the page says: where it names places, all others are right."""
        if self.not_tried:
            return f"not tried: {shortened(self.not_tried)}"
        places: dict[str, list[str]] = {}
        for place, verdict in self.verdicts.items():
            places.setdefault(str(verdict), []).append(place)
        if len(places) == 1:
            return next(iter(places))
        return "; ".join(f"{' and '.join(own)}: {text}" for text, own in places.items() if text != "right")


def shortened(said: str) -> str:
    """The first words, up to the end of a sentence."""
    first = said.split(". ")[0].rstrip(".").replace("|", "/")
    return first if len(first) <= LONGEST else first[:LONGEST].rsplit(" ", 1)[0] + " ..."


# What runs leave


@dataclass(frozen=True)
class Pack:
    """What runs on one host found of the nodes of one pack, or of ComfyUI itself; or why the pack was `not_tried`.

    `there` are the names of all nodes that it has there.
    """

    version: str
    found: tuple[Found, ...] = ()
    not_tried: str = ""
    there: tuple[str, ...] = field(default=(), compare=False)

    def cells(self) -> dict[tuple[str, str], str]:
        """What the page says of each node that was run, by (kind, node)."""
        return {(item.kind, item.node): str(item) for item in self.found}


def leave(host: str, name: str, pack: Pack, there: set[str]) -> None:
    """Leaves what a run found in the place of what earlier ones did; of nodes that it left out, theirs is kept.

    `there` are the nodes of the pack.
    """
    file = folder() / host / f"{name}.json"
    before = read(file).found if file.exists() else ()
    known = {(item.kind, item.node): item for item in (*before, *pack.found) if item.node in there}
    found = tuple(known[key] for key in sorted(known))
    content = asdict(Pack(pack.version, found, pack.not_tried, tuple(sorted(there))))
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.with_name(f"{name}.{os.getpid()}.partial")  # lanes side by side read each other's
    whole.write_text(json.dumps(content, indent=1), encoding="utf-8")
    whole.replace(file)


def left(host: str) -> dict[str, Pack]:
    """What runs on one host have left, by pack."""
    return {file.stem: read(file) for file in sorted((folder() / host).glob("*.json"))}


def read(file: Path) -> Pack:
    pack = json.loads(file.read_text(encoding="utf-8"))
    return Pack(**pack | {"found": tuple(map(read_found, pack["found"])), "there": tuple(pack.get("there", ()))})


def read_found(item: Mapping[str, Any]) -> Found:
    return Found(**item | {"verdicts": {place: Verdict(**verdict) for place, verdict in item["verdicts"].items()}})


def folder() -> Path:
    """Where everything lies that the tests make: a file per host and pack, as lanes run side by side."""
    return Path(os.environ.get("RLG_HOME") or REPOSITORY / ".rlg") / "compatibility"


# The page


def rendered(hosts: Mapping[str, Mapping[str, Pack]]) -> str:
    """The tables, from what was left on each host."""
    names = sorted({name for packs in hosts.values() for name in packs} - {STOCK}, key=str.lower)
    return "\n\n".join(
        section(name, {host: packs.get(name) for host, packs in hosts.items()}) for name in [STOCK, *names]
    )


def section(name: str, packs: Mapping[str, Pack | None]) -> str:
    """One pack: a row for each node, a column for each host that it was run on; a line for each that it was not."""
    reasons = [f"ComfyUI {host}: {NOT_RUN}" for host, pack in packs.items() if pack is None]
    packs = {host: pack for host, pack in packs.items() if pack is not None}
    version = next((f" {pack.version}" for pack in packs.values() if name != STOCK), "")
    cells = {host: pack.cells() for host, pack in packs.items()}
    reasons += [f"ComfyUI {host}: not tried: {shortened(p.not_tried)}" for host, p in packs.items() if p.not_tried]
    head = ["node", "kind", *packs]
    rows = [
        [
            node,
            kind,
            *(own.get((kind, node), NOT_RUN if node in packs[host].there else ABSENT) for host, own in cells.items()),
        ]
        for kind, node in sorted({key for own in cells.values() for key in own})
    ]
    table = "\n".join(line(row) for row in (head, ["---"] * len(head), *rows)) if rows else ""
    lines = "\n".join(f"- {reason}" for reason in reasons)
    return "\n\n".join(filter(None, (f"## {name}{version}", lines, table)))


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def on_page(page: str, pack: str, host: str) -> dict[tuple[str, str], str] | None:
    """The cells of one pack and host, by (kind, node); None where the page knows nothing of the host."""
    own = next((part for part in f"\n{page}".split("\n## ") if part.split()[:1] == [pack]), "")
    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in own.splitlines() if row.startswith("|")]
    if not rows or host not in rows[0]:
        return None
    column = rows[0].index(host)
    return {(row[1], row[0]): row[column] for row in rows[2:] if row[column] != ABSENT}


def main() -> None:
    from devtools.hosts import RELEASES

    hosts = {release.version: left(release.version) for release in reversed(RELEASES)}
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{rendered(hosts)}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
