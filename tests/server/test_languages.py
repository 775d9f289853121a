"""The pack in six more languages: names, tooltips and help pages keep step with the nodes."""

import re

import pytest

from devtools.paths import PACK, ROOT

LANGUAGES = ("de", "es", "fr", "ja", "ko", "zh")
TRANSLATED = (
    *("RLGAdapterLoader", "RLGApply", "RLGAutoScale", "RLGBudget", "RLGCheckpointPairLoader"),
    *("RLGExtractAdapter", "RLGScaleFromKL", "RLGSchedule", "RLGSweep", "RLGTrace"),
)
"""The nodes whose help pages are translated; of the others every language shows the English one."""

NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
IDENTIFIER = re.compile(r"(?<![\w/])[a-z]+(?:_[a-z]+)+(?!\w)", re.ASCII)


@pytest.fixture(scope="module")
def nodes(server):
    """{node: {what is translated: its English text}} of the pack, as the server tells it; "" where there is none."""
    told = server.get("/object_info")
    return {name: texts_of(info) for name, info in told.items() if info["python_module"] == f"custom_nodes.{PACK}"}


def texts_of(info):
    inputs = [item for group in ("required", "optional") for item in info["input"].get(group, {}).items()]
    outputs = list(zip(info["output_name"], info["output_tooltips"], strict=True))
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        **{f"inputs.{key}.name": key for key, _ in inputs},
        **{f"inputs.{key}.tooltip": spec[1]["tooltip"] for key, spec in inputs},
        **{f"outputs.{index}.name": name for index, (name, _) in enumerate(outputs)},
        **{f"outputs.{index}.tooltip": tooltip or "" for index, (_, tooltip) in enumerate(outputs)},
    }


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request):
    return request.param


@pytest.fixture(scope="module")
def translated(server, language, nodes):
    """The texts of `nodes` in a language, by the same names."""
    found = server.get("/i18n")[language]["nodeDefs"]
    return {name: dict(leaves(found[name])) for name in found if name.startswith("RLG")}


def leaves(tree, path=""):
    """(path, text) of the texts of nested dictionaries."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield path + key, value


def test_the_languages_are_these(server):
    assert sorted(folder.name for folder in (ROOT / "locales").iterdir()) == list(LANGUAGES)
    assert all(server.get("/i18n")[language]["nodeCategories"]["RLG"] for language in LANGUAGES)


def test_every_text_is_translated_and_no_other(translated, nodes):
    assert translated.keys() ^ nodes.keys() == set()
    for name, texts in nodes.items():
        assert translated[name].keys() == {key for key, text in texts.items() if text}, name
        assert all(text.strip() for text in translated[name].values()), name


def test_sentences_are_not_left_in_english(translated, nodes):
    same = [
        f"{name}.{key}" for name, key, english, text in pairs(translated, nodes) if text == english and is_long(key)
    ]
    assert same == []


def pairs(translated, nodes):
    """(node, key, English text, text) of all texts."""
    for name, texts in translated.items():
        for key, text in texts.items():
            yield name, key, nodes[name][key], text


def is_long(key):
    return not key.endswith("name")


def test_numbers_are_those_of_the_english_text(translated, nodes):
    """A tooltip that recommends another value than the English one was not changed with it."""
    lost = {
        f"{name}.{key}": sorted(numbers(english) - numbers(text))
        for name, key, english, text in pairs(translated, nodes)
        if is_long(key) and numbers(english) - numbers(text)
    }
    assert lost == {}


def numbers(text):
    return {number.replace(",", ".") for number in NUMBER.findall(text)}


def test_inputs_are_named_as_the_editor_shows_them(translated, nodes):
    """Their ids, which it shows in English alone, are left to file names and values."""
    ids = {key.split(".")[1] for texts in nodes.values() for key in texts if key.startswith("inputs.")}
    found = {f"{name}.{key}": ids & set(IDENTIFIER.findall(text)) for name, key, _, text in pairs(translated, nodes)}
    assert {key: named for key, named in found.items() if named} == {}


def test_no_sign_has_a_meaning_to_the_editor(translated, nodes):
    texts = "".join(text for _, _, _, text in pairs(translated, nodes))
    assert not set("{}@|") & set(texts)


def test_labels_of_a_node_differ(translated, nodes):
    for name, texts in translated.items():
        labels = [text for key, text in texts.items() if key.startswith("inputs.") and key.endswith("name")]
        assert len(set(labels)) == len(labels), name


# Help pages


def page(server, name):
    return server.read(f"/extensions/{PACK}/docs/{name}.md").decode()


def headings(text):
    """The levels of a page's headings, in order: "# ", "## ", ..."""
    return [line.partition(" ")[0] for line in text.splitlines() if line.startswith("#")]


def items(text):
    """How many items a page's lists have in all."""
    return sum(line.lstrip().startswith("- ") for line in text.splitlines())


def pictures(text):
    return re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)


def test_every_node_has_a_page_for_all_languages(server, nodes):
    """The editor takes <node>.md where there is no <node>/<language>.md."""
    assert [name for name in nodes if not page(server, name).startswith("# ")] == []


def test_the_translated_pages_are_these():
    folder = ROOT / "web" / "docs"
    found = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*.md"))
    assert found == sorted(f"{name}/{language}.md" for name in TRANSLATED for language in LANGUAGES)


@pytest.mark.parametrize("name", TRANSLATED)
def test_a_translated_page_says_what_the_english_one_says(server, translated, language, name):
    english, text = page(server, name), page(server, f"{name}/{language}")
    assert text.splitlines()[0] == f"# {translated[name]['display_name']}"
    assert headings(text) == headings(english)
    assert pictures(text) == pictures(english)
    assert items(text) == items(english)
    assert numbers(english) - numbers(text) == set()


@pytest.mark.parametrize("name", TRANSLATED)
def test_a_translated_page_names_every_input(server, translated, language, name):
    text = page(server, f"{name}/{language}")
    labels = {
        key.split(".")[1]: label for key, label in translated[name].items() if re.fullmatch(r"inputs\.\w+\.name", key)
    }
    assert [key for key in labels if f"`{key}`" not in text and f"**{key}**" not in text] == []
    assert [label for label in labels.values() if label not in text] == []


def test_no_sign_of_the_markup_shows():
    """In scripts without spaces, ** beside a full stop is no emphasis."""
    markdown = pytest.importorskip("markdown_it").MarkdownIt()
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "web" / "docs").rglob("*.md")}
    shown = {path: re.sub("<code>.*?</code>", "", markdown.render(text)) for path, text in texts.items()}
    assert [path.as_posix() for path, text in shown.items() if "**" in text] == []
    broken = {path for path, text in shown.items() if path.stem in ("ja", "zh") and re.search(r"[^>\n]\n[^<\n]", text)}
    assert broken == set(), "a line break would show as a space"


def test_the_pictures_of_the_help_pages_are_served(server):
    named = {picture for path in (ROOT / "web" / "docs").rglob("*.md") for picture in pictures(path.read_text("utf-8"))}
    assert named
    for picture in named:
        assert server.read(f"/extensions/{PACK}/docs/{picture}")[:2] == b"\xff\xd8"
