"""docs/COMPATIBILITY.md is what runs of the lanes left, no more and no less."""

from __future__ import annotations

import pytest

from support import compatibility
from support.compatibility import ABSENT, STOCK, Found, Pack, Verdict

RIGHT = Verdict("right")
REFUSED = Verdict("refused", "It injects modules | into the base. Load it otherwise.")
NAG = Found("model", "NAG", {"after RLG": RIGHT, "before RLG": RIGHT})
BYPASS = Found("model", "Bypass", {"after RLG": REFUSED, "before RLG": RIGHT})
LATENT = Found("sampler", "NAG", not_tried="needs two GPUs")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RLG_HOME", str(tmp_path))


def test_a_run_takes_the_place_of_earlier_ones_node_by_node():
    compatibility.leave("1.0", STOCK, Pack("", (NAG, BYPASS)), {"NAG", "Bypass"})
    compatibility.leave("1.0", "Other", Pack("2.0", (), "needs a package"), set())
    compatibility.leave("1.0", STOCK, Pack("", (LATENT,)), {"NAG"})
    assert compatibility.left("1.0") == {STOCK: Pack("", (NAG, LATENT)), "Other": Pack("2.0", (), "needs a package")}
    assert compatibility.left("1.1") == {}


def test_the_page_has_every_node_with_what_each_host_found():
    hosts = {
        "0.9": {STOCK: Pack("", (NAG,))},
        "1.0": {STOCK: Pack("", (BYPASS, NAG, LATENT)), "Other": Pack("2.0", (), "needs a package")},
    }
    page = compatibility.rendered(hosts)
    assert compatibility.on_page(page, STOCK, "0.9") == {("model", "NAG"): "right"}
    assert compatibility.on_page(page, STOCK, "1.0") == {
        ("model", "NAG"): "right",
        ("model", "Bypass"): "after RLG: refused: It injects modules / into the base",
        ("sampler", "NAG"): "not tried: needs two GPUs",
    }
    assert compatibility.on_page(page, STOCK, "1.1") is None
    assert "## Other 2.0\n\n- ComfyUI 0.9: not run\n- ComfyUI 1.0: not tried: needs a package" in page
    assert f"| Bypass | model | {ABSENT} |" in page
