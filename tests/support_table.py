"""The README's table of what loads, made of what the host tests saw load: `python tests/support_table.py` writes it."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- support table -->", "<!-- end of support table -->"

COLUMNS = {
    "PEFT folder": "PEFT folder",
    "PEFT raw state dict": "PEFT state dict",
    "diffusers": "diffusers",
    "diffusers + lora_config.json": "GRPO trainers",
    "diffusers, old attention processors": "old diffusers",
    "kohya": "kohya",
    "ComfyUI and kohya, host names": "ComfyUI",
    "LyCORIS names": "LyCORIS",
    "LoHa": "LoHa",
    "LoKr": "LoKr",
    "bare": "bare names",
}
"""The tests' cells -> the table's columns."""


def results() -> dict[str, dict[str, list[str]]]:
    """By host version: what `tests/host/test_architectures.py` wrote."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "tests" / "support").glob("*.json"))}


def cell(hosts: dict[str, dict[str, list[str]]], architecture: str, name: str) -> str:
    """`yes` where every host loads it, the versions that do elsewhere, `-` where there is no such thing."""
    versions = [version for version, found in hosts.items() if name in found.get(architecture, ())]
    return "yes" if len(versions) == len(hosts) else ", ".join(versions) or "-"


def render() -> str:
    hosts = results()
    architectures = dict.fromkeys(name for found in hosts.values() for name in sorted(found))
    rows = [["", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1)]
    rows += [[architecture, *(cell(hosts, architecture, name) for name in COLUMNS)] for architecture in architectures]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\nTested on ComfyUI {' and '.join(hosts)}, with names and adapters made by diffusers and PEFT."


def in_readme(text: str) -> str:
    """What stands between the markers."""
    return text.split(BEGIN)[1].split(END)[0].strip()


def main() -> None:
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{render()}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
