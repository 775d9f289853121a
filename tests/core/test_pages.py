"""The pages that people read: the README's table of models is the templates', and links lead somewhere."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bench/*.md")])
TEMPLATES = sorted((ROOT / "workflows").glob("With *.json"))
RL_NODES = ("RLGAdapterLoader", "RLGCheckpointPairLoader")
SCALE = re.compile(r"-?\d+(?:\.\d+)?")


def rows(name):
    return [line for line in PAGE.splitlines() if line.startswith("|") and f"*{name}*" in line]


def test_no_row_is_of_a_template_that_is_not_there():
    named = set(re.findall(r"^\|.*\*(With [^*]+)\*", PAGE, re.MULTILINE))
    assert named == {path.stem for path in TEMPLATES}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_the_row_has_the_templates_rl_models_and_scale(path):
    (row,) = rows(path.stem)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    nodes = {node["type"]: node for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
    links = [
        model["url"] for kind in RL_NODES if kind in nodes for model in nodes[kind]["properties"].get("models", [])
    ]
    pages = {url.partition("/resolve/")[0] for url in links}
    assert any(f"({page})" in cells[1] for page in pages) or not links
    starts = SCALE.findall(cells[4].partition("(")[0])
    assert float(starts[0]) == nodes["RLGApply"]["widgets_values"][0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
