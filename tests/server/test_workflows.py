"""The shipped workflows, as the server lists and runs them."""

import io
import json

import pytest
from PIL import Image, ImageStat

from devtools.paths import PACK, ROOT
from support.graphs import WORKFLOWS, load

TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


def test_templates_are_listed(server):
    assert sorted(server.get("/workflow_templates")[PACK]) == TEMPLATES
    assert TEMPLATES


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_is_served(server, name):
    served = server.read(f"/api/workflow_templates/{PACK}/{name}.json")
    assert json.loads(served)["nodes"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_thumbnail_is_served(server, name):
    thumbnail = Image.open(io.BytesIO(server.read(f"/api/workflow_templates/{PACK}/{name}.jpg")))
    assert min(thumbnail.size) >= 256


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_gives_pictures(server, path):
    steps = []
    outputs = server.run(load(path), lambda node, value, maximum: steps.append((value, maximum)))
    images = [image for output in outputs.values() for image in output.get("images", [])]
    assert images
    for image in images:
        picture = Image.open(io.BytesIO(server.image(image))).convert("RGB")
        assert max(ImageStat.Stat(picture).stddev) > 8, "the picture is flat"
    assert any(value == maximum for value, maximum in steps), "no progress was told"
