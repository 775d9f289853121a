"""Thumbnails and examples of the shipped templates: written by `python -m devtools.templates`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted((ROOT / "workflows").glob("*.json"))
WITH_DEMO_MODELS = [path for path in TEMPLATES if not path.stem.startswith("With ")]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_a_thumbnail_leaves_its_edges_to_the_editors_badges(path):
    pixels = np.asarray(Image.open(path.with_suffix(".jpg")).convert("L")).astype(int)
    height = len(pixels)
    assert height == pixels.shape[1] >= 256
    for edge in (pixels[: height // 5], pixels[-height // 5 :]):
        assert edge.max() - edge.min() < 16
    assert pixels.std() > 8, "the thumbnail is flat"


@pytest.mark.parametrize("path", WITH_DEMO_MODELS, ids=lambda path: path.stem)
def test_an_example_carries_its_workflow(path):
    picture = Image.open(ROOT / "docs" / "examples" / f"{path.stem}.png")
    carried, shipped = json.loads(picture.text["workflow"]), json.loads(path.read_text(encoding="utf-8"))
    assert {node["id"]: node["type"] for node in carried["nodes"]} == {
        node["id"]: node["type"] for node in shipped["nodes"]
    }
    assert carried["links"] == shipped["links"]
    assert np.asarray(picture.convert("RGB")).std() > 8, "the picture is flat"


def test_no_example_is_of_a_template_that_is_gone():
    names = {path.stem for path in (ROOT / "docs" / "examples").glob("*.png")}
    assert names == {path.stem for path in WITH_DEMO_MODELS}
