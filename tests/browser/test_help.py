"""The editor in another language, and its own help panel on the pack's nodes."""

import json
import os

import pytest

from devtools.paths import ROOT
from support.editor import add_node, open_help, open_workflow

pytestmark = pytest.mark.newest_editor
LOCALE = "locale => app.extensionManager.setting.set('Comfy.Locale', locale)"
LABELS = "node => Object.fromEntries(LiteGraph.createNode(node).widgets.map(w => [w.name, w.label]))"
SPEAKS = f"word => ({LABELS})('KSampler').steps == word"
STEPS = {"en": "steps", "zh": "\u6b65\u6570"}
LOADED = "name => [...document.querySelectorAll(`img[src$='/docs/${name}']`)].some(i => i.naturalWidth > 0)"


@pytest.fixture
def chinese(page):
    """The editor in Chinese, and in English again afterwards."""
    speak(page, "zh")
    yield page
    speak(page, "en")


def speak(page, language):
    page.evaluate(LOCALE, language)
    page.wait_for_function(SPEAKS, arg=STEPS[language])


def headings(name):
    """The headings of a help page, its title first."""
    page = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
    return [line.lstrip("# ") for line in page.splitlines() if line.startswith("#")]


def assert_help_shows(page, expected, picture):
    page.get_by_role("heading", name=expected[0], exact=True).first.wait_for()
    page.wait_for_function(LOADED, arg=picture)
    assert set(expected) <= set(page.locator("h1, h2").all_inner_texts())


def test_help_in_english(page, screenshots):
    open_workflow(page)
    open_help(page, "RLGApply")
    assert_help_shows(page, headings("RLGApply"), "pictures/scales.jpg")
    page.screenshot(path=screenshots / "help.png")


def test_help_in_chinese(chinese, screenshots):
    open_workflow(chinese)
    add_node(chinese, "RLGSchedule")
    open_help(chinese, "RLGSchedule")
    assert_help_shows(chinese, headings("RLGSchedule/zh"), "pictures/presets.jpg")
    chinese.screenshot(path=screenshots / "help, zh.png")


def test_labels_in_chinese(chinese):
    if os.environ.get("RLG_HOST_VERSION") == "0.3.75":
        pytest.skip("the graph editor of this release loses the translations of packs when it loads a language")
    file = ROOT / "locales" / "zh" / "nodeDefs.json"
    inputs = json.loads(file.read_text(encoding="utf-8"))["RLGSchedule"]["inputs"]
    assert chinese.evaluate(LABELS, "RLGSchedule") == {name: given["name"] for name, given in inputs.items()}
