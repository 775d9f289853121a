"""The shipped workflows in the real graph editor, as a user opens and runs them."""
import json

import pytest

from devtools.paths import PACK, ROOT

TEMPLATES = sorted((ROOT / "workflows").glob("*.json"))
UNKNOWN = "app.graph.nodes.filter(n => !LiteGraph.registered_node_types[n.type] && n.type != 'MarkdownNote').map(n => n.type)"
COMPLAINTS = "[...document.querySelectorAll('[role=dialog]')].map(d => d.innerText).filter(t => /missing|not found/i.test(t))"
PREVIEW = "app.graph.nodes.some(n => n.imgs?.length && n.imgs[0].naturalWidth > 0)"


def open_workflow(page, path):
    """Load a workflow file into the editor, as dropping it there does."""
    page.evaluate("graph => app.loadGraphData(graph)", json.loads(path.read_text(encoding="utf-8")))
    page.wait_for_timeout(500)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_workflow_opens_complete_and_runs(page, server, screenshots, path):
    open_workflow(page, path)
    assert page.evaluate(UNKNOWN) == []
    assert page.evaluate(COMPLAINTS) == []
    page.evaluate("app.queuePrompt(0)")
    page.wait_for_function(PREVIEW, timeout=120_000)
    page.wait_for_timeout(1000)
    page.screenshot(path=screenshots / f"{path.stem}.png")
    assert page.evaluate("app.lastNodeErrors == null || Object.keys(app.lastNodeErrors).length == 0")
    assert page.evaluate("app.lastExecutionError == null")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_graph_and_api_copy_are_one(page, path):
    open_workflow(page, path)
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    copy = json.loads((path.parent / "api" / path.name).read_text(encoding="utf-8"))
    assert {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in copy.items()
    }


def test_template_opens_from_the_template_browser(page, server):
    page.goto(f"{server.url}/?template={TEMPLATES[0].stem}&source={PACK}")
    page.wait_for_function("window.app?.graph?.nodes?.some(n => n.type == 'RLGApply')", timeout=60_000)


def test_nodes_are_found_by_the_words_users_know(page):
    found = page.evaluate("Object.values(LiteGraph.registered_node_types).filter(n => /^RLG/.test(n.type)).map(n => n.title)")
    assert "Reinforcement Learning Guidance" in found
    assert "Load RL Adapter" in found
