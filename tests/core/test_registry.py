"""What the registry reads of the pack: addresses that lead to what is here, and artwork of the sizes it asks for."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from devtools import artwork, hosts

ROOT = Path(__file__).resolve().parents[2]
if sys.version_info >= (3, 11):
    import tomllib

    PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
else:
    pytest.skip("this Python reads no TOML", allow_module_level=True)

PAGES = sorted(page.relative_to(ROOT).as_posix() for pattern in ("*.md", "docs/*.md") for page in ROOT.glob(pattern))
URLS, COMFY = PROJECT["project"]["urls"], PROJECT["tool"]["comfy"]


@pytest.mark.parametrize(("name", "size"), [("Icon", artwork.ICON), ("Banner", artwork.BANNER)])
def test_artwork(name, size):
    """As `devtools.artwork` draws it, up to what drawing differs between releases of Pillow."""
    raw = URLS["Repository"].replace("https://github.com/", "https://raw.githubusercontent.com/")
    address = COMFY[name]
    assert address.startswith(f"{raw}/main/")
    picture = Image.open(ROOT / address.removeprefix(f"{raw}/main/")).convert("RGB")
    assert picture.size == size and max(artwork.ICON) <= 400 and artwork.BANNER[0] * 9 == artwork.BANNER[1] * 21
    small, drawn = (image.resize((16, 16)).tobytes() for image in (picture, artwork.drawn(size)))
    assert max(abs(a - b) for a, b in zip(small, drawn)) < 16


def test_addresses_and_versions():
    assert URLS["Issues"] == f"{URLS['Repository']}/issues"
    assert COMFY["requires-comfyui"] == f">={hosts.OLDEST.version}"


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_templates_name_the_version_that_wrote_them(path):
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    versions = {node["properties"]["ver"] for node in nodes if node["type"].startswith("RLG")}
    assert versions == {PROJECT["project"]["version"]}, "run python -m devtools.templates"


def test_what_the_editor_shows_is_shipped():
    left_out = (ROOT / ".comfyignore").read_text(encoding="utf-8").split()
    shipped = ("web", "locales", "subgraphs", "workflows", "docs")
    assert not {f"{name}/" for name in shipped} & set(left_out)
    assert all(any((ROOT / name).rglob("*.*")) for name in shipped)


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page):
    """The registry's own page shows no README but links to the repository, where links are followed from their page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert links or page != "README.md"
    assert [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()] == []
