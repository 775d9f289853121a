"""The table of what loads, written from the cells: `python -m tests.support.table` rewrites docs/SUPPORT.md."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from devtools.hosts import RELEASES

from .architectures import ARCHITECTURES
from .cells import CELLS, FORMATS, Cell

PAGE = Path(__file__).resolve().parents[2] / "docs" / "SUPPORT.md"
BEGIN, END = "<!-- table: python -m tests.support.table -->", "<!-- end of table -->"
VERSIONS = tuple(release.version for release in reversed(RELEASES))


def rendered(cells: Sequence[Cell] = CELLS, versions: Sequence[str] = VERSIONS) -> str:
    """The table, where each cell that not every release runs stands with its reason, and what the columns are."""
    by_place = {(cell.architecture, cell.format): cell for cell in cells}
    rows = [["", *FORMATS], ["---"] * (len(FORMATS) + 1)]
    for name in dict.fromkeys(cell.architecture for cell in cells):
        rows.append([name, *(text(by_place.get((name, form)), versions) for form in FORMATS)])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", f"Every cell is loaded on ComfyUI {' and '.join(versions)} by the tests."]
    notes = [*_without_diffusers(cells), *_reasons(cells)]
    return "\n".join([*lines, *(["", *notes] if notes else []), "", *legend()])


def _without_diffusers(cells: Sequence[Cell]) -> list[str]:
    names = dict.fromkeys(cell.architecture for cell in cells if ARCHITECTURES[cell.architecture].cls is None)
    return [f"- {name}: diffusers has no such model; the names are those of the model's own code" for name in names]


def _reasons(cells: Sequence[Cell]) -> list[str]:
    """A line for each cell that a release cannot run, or one for all of an architecture's if the reason is the same."""
    limits: dict[tuple[str, str, str], list[str]] = {}
    for cell in cells:
        for version, why in cell.not_on.items():
            limits.setdefault((cell.architecture, version, why), []).append(cell.format)
    formats = {name: [cell.format for cell in cells if cell.architecture == name] for name, *_ in limits}
    lines = []
    for (name, version, why), limited in limits.items():
        places = [name] if limited == formats[name] else [f"{name}, {form}" for form in limited]
        lines += [f"- {place}, ComfyUI {version}: {why}" for place in places]
    return lines


def text(cell: Cell | None, versions: Sequence[str]) -> str:
    """`yes` where every release loads the cell, those that do elsewhere, `-` where there is no such cell."""
    if cell is None:
        return "-"
    able = [version for version in versions if version not in cell.not_on]
    return "yes" if len(able) == len(versions) else ", ".join(able) or "no"


def legend() -> list[str]:
    """A line per column."""
    return [f"- **{form}**: {meaning}" for form, meaning in FORMATS.items()]


def in_page(page: str) -> str:
    """What stands between the markers."""
    return page.split(BEGIN)[1].split(END)[0].strip()


def main() -> None:
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{rendered()}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
