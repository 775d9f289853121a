"""docs/MODELS.md: a row for every template on public models, with the links that its nodes have."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "MODELS.md").read_text(encoding="utf-8")
TEMPLATES = sorted((ROOT / "workflows").glob("With *.json"))
RL_NODES = ("RLGAdapterLoader", "RLGCheckpointPairLoader")
SCALE = re.compile(r"-?\d+(?:\.\d+)?")


def rows(name):
    return [line for line in PAGE.splitlines() if line.startswith("|") and f"*{name}*" in line]


def test_no_row_is_of_a_template_that_is_not_there():
    named = set(re.findall(r"\*(With [^*]+)\*", PAGE))
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


def test_its_own_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https:)([^)]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
