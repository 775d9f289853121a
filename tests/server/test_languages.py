"""The pack in six more languages: names, tooltips and help pages keep step with the nodes."""

import pytest

from devtools.paths import PACK, ROOT

LANGUAGES = ("de", "es", "fr", "ja", "ko", "zh")
MAIN = ("RLGAdapterLoader", "RLGApply", "RLGBudget", "RLGCheckpointPairLoader", "RLGSchedule")
"""The nodes whose inputs and help pages are translated."""


@pytest.fixture(scope="module")
def nodes(server):
    """{node: the names of its inputs} of the pack, as the server tells them."""
    told = server.get("/object_info")
    return {
        name: {key for group in info["input_order"].values() for key in group}
        for name, info in told.items()
        if info["python_module"] == f"custom_nodes.{PACK}"
    }


@pytest.fixture(scope="module")
def translations(server):
    return server.get("/i18n")


def test_the_languages_are_these():
    assert sorted(folder.name for folder in (ROOT / "locales").iterdir()) == list(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_has_a_name_and_a_description(translations, nodes, language):
    found = translations[language]["nodeDefs"]
    ours = {name for name in found if name.startswith("RLG")}
    assert ours ^ nodes.keys() == set()
    assert all(found[name]["display_name"] and found[name]["description"] for name in ours)
    assert translations[language]["nodeCategories"]["RLG"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_inputs_are_those_of_the_nodes(translations, nodes, language):
    found = translations[language]["nodeDefs"]
    inputs = {name: set(found[name].get("inputs", {})) for name in nodes if name in found}
    assert {name: keys for name, keys in inputs.items() if keys} == {name: nodes[name] for name in MAIN}
    tooltips = [given["tooltip"] for name in MAIN for given in found[name]["inputs"].values()]
    assert all(tooltips)
    assert not set("{}@|") & set("".join(tooltips)), "the editor gives these signs a meaning"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", MAIN)
def test_the_help_page_names_every_input(server, nodes, language, name):
    page = server.read(f"/extensions/{PACK}/docs/{name}/{language}.md").decode()
    assert page.startswith("# ")
    assert [key for key in sorted(nodes[name]) if f"**{key}**" not in page] == []


def test_the_pictures_of_the_help_pages_are_served(server):
    pages = [path.read_text(encoding="utf-8") for path in (ROOT / "web" / "docs").glob("*/*.md")]
    named = {line.split("](")[1].rstrip(")") for page in pages for line in page.splitlines() if line.startswith("![")}
    assert named
    for picture in named:
        assert server.read(f"/extensions/{PACK}/docs/{picture}")[:2] == b"\xff\xd8"
