"""Sections of RESULTS.md that commands of their own write: each replaces its own and leaves the others."""

from __future__ import annotations

from pathlib import Path

MARK = "\n## "


def put(path: Path, title: str, text: str) -> None:
    """Replaces the section of that title, or appends it."""
    head, sections = read(path)
    sections[title] = text
    path.write_text(joined(head, sections), encoding="utf-8")


def read(path: Path) -> tuple[str, dict[str, str]]:
    """What stands before the first section, and the text of each by its title."""
    head, *rest = path.read_text(encoding="utf-8").split(MARK) if path.exists() else ["# Benchmark\n"]
    return head, {title: text.strip("\n") for title, _, text in (part.partition("\n") for part in rest)}


def joined(head: str, sections: dict[str, str]) -> str:
    return head.rstrip("\n") + "\n" + "".join(f"{MARK}{title}\n\n{text}\n" for title, text in sections.items())
