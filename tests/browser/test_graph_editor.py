"""The shipped workflows in the real graph editor, as a user opens and runs them."""

import json

import pytest

from devtools.paths import PACK
from support.editor import open_workflow
from support.graphs import GRAPHS, PUBLIC, load

TEMPLATES = [path.parents[1] / path.name for path in GRAPHS]
RUNNABLE = [path.parents[1] / path.name for path in GRAPHS if path not in PUBLIC]
STARTER = "Reinforcement Learning Guidance"
UNKNOWN = "app.graph.nodes.map(n => n.type).filter(t => t != 'MarkdownNote' && !LiteGraph.registered_node_types[t])"
DIALOGS = "[...document.querySelectorAll('[role=dialog]')].map(d => d.innerText)"
TITLES = "Object.values(LiteGraph.registered_node_types).filter(n => /^RLG/.test(n.type)).map(n => n.title)"
PREVIEW = "app.graph.nodes.some(n => n.imgs?.length && n.imgs[0].naturalWidth > 0)"
RED = "app.graph.nodes.filter(n => n.has_errors).map(n => n.title)"
COMPLAINTS = "document.body.innerText.split('\\n').filter(line => /missing|error|not found|failed/i.test(line))"
BOXES = """() => ({
    nodes: app.graph.nodes.map(n => [n.title, n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30]),
    groups: app.graph.groups.map(g => [g.title, g.pos[0], g.pos[1], g.size[0], g.size[1]]),
})"""
NODES_2 = "Comfy.VueNodes.Enabled"
BOXES_2 = """() => [...document.querySelectorAll('[data-node-id]')].map(e => {
    const box = e.getBoundingClientRect(), scale = app.canvas.ds.scale
    return [e.dataset.nodeId, box.x / scale, box.y / scale, box.width / scale, box.height / scale]
})"""


@pytest.fixture(scope="session")
def defaults(server):
    """{class: {widget: default}} of all nodes."""
    return {name: defaults_of(info) for name, info in server.get("/object_info").items()}


def defaults_of(info):
    inputs = [item for group in ("required", "optional") for item in info["input"].get(group, {}).items()]
    return {name: spec[1]["default"] for name, spec in inputs if len(spec) > 1 and "default" in spec[1]}


def told(graph, defaults):
    """What every node of an API graph does, whatever the keys are: links are what they lead to, gaps are defaults."""

    def tell(key):
        kind, inputs = graph[key]["class_type"], graph[key]["inputs"]
        given = {
            name: [tell(value[0]), value[1]] if isinstance(value, list) else value for name, value in inputs.items()
        }
        return [kind, dict(sorted((defaults[kind] | given).items()))]

    return sorted((tell(key) for key in graph), key=json.dumps)


def overlapping(boxes):
    """Pairs of titles of boxes (title, x, y, width, height) that lie on one another by more than a border."""
    return [
        (a, b)
        for i, (a, ax, ay, aw, ah) in enumerate(boxes)
        for b, bx, by, bw, bh in boxes[:i]
        if min(ax + aw, bx + bw) - max(ax, bx) > 4 and min(ay + ah, by + bh) - max(ay, by) > 4
    ]


def torn(boxes):
    """(node, group) where a node lies in a group in part only."""
    return [
        (node, group)
        for node, *box in boxes["nodes"]
        for group, *frame in boxes["groups"]
        if overlapping([(node, *box), (group, *frame)]) and not inside(box, frame)
    ]


def inside(box, frame):
    (x, y, w, h), (left, top, width, height) = box, frame
    return x >= left and y >= top and x + w <= left + width and y + h <= top + height


def also_on_the_newest_editor(path):
    marks = [pytest.mark.newest_editor] if path.stem in (STARTER, "RLG Schedule and Trace") else []
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", map(also_on_the_newest_editor, RUNNABLE))
def test_workflow_opens_complete_and_runs(page, server, screenshots, path):
    open_workflow(page, path)
    assert page.evaluate(UNKNOWN) == []
    assert page.evaluate(DIALOGS) == [], "the editor complains"
    assert page.evaluate(RED) == [] and page.evaluate(COMPLAINTS) == []
    page.evaluate("app.queuePrompt(0)")
    page.wait_for_function(PREVIEW)
    page.wait_for_timeout(1000)
    page.screenshot(path=screenshots / f"{path.stem}.png")
    assert page.evaluate("app.lastNodeErrors == null || Object.keys(app.lastNodeErrors).length == 0")
    assert page.evaluate("app.lastExecutionError == null")
    assert page.evaluate(RED) == [] and page.evaluate(COMPLAINTS) == []
    boxes = page.evaluate(BOXES)
    assert overlapping(boxes["nodes"]) == [] and torn(boxes) == []


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_graph_and_api_copy_are_one(page, defaults, path):
    open_workflow(page, path)
    assert page.evaluate(UNKNOWN) == []
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert told(prompt, defaults) == told(load(path.parent / "api" / path.name), defaults)


def test_templates_have_room_in_nodes_2(page, screenshots):
    page.evaluate(f"app.extensionManager.setting.set('{NODES_2}', true)")
    try:
        crowded = {}
        for path in RUNNABLE:
            open_workflow(page, path)
            page.wait_for_function("document.querySelectorAll('[data-node-id]').length == app.graph.nodes.length")
            page.wait_for_timeout(500)
            page.screenshot(path=screenshots / f"{path.stem}, Nodes 2.0.png")
            crowded[path.stem] = overlapping(page.evaluate(BOXES_2))
    finally:
        page.evaluate(f"app.extensionManager.setting.set('{NODES_2}', false)")
    assert {name: found for name, found in crowded.items() if found} == {}


@pytest.mark.newest_editor
def test_template_opens_from_the_template_browser(page):
    page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(PACK, exact=True).click()
    dialog.get_by_text(STARTER).first.click()
    page.wait_for_function("app.graph.nodes.some(n => n.type == 'RLGApply')")


def test_nodes_are_found_by_the_words_users_know(page):
    assert {"Reinforcement Learning Guidance", "Load RL Adapter"} <= set(page.evaluate(TITLES))
