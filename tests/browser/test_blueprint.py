"""The blueprint `Sample with RLG`: offered by the server, and whole in the editor."""

import json

from devtools.paths import PACK, ROOT
from support.editor import open_workflow

PATH = ROOT / "subgraphs" / "Sample with RLG.json"
INSIDE = "[...app.graph.subgraphs.values()].flatMap(s => s.nodes.map(n => n.type))"
UNKNOWN = f"{INSIDE}.filter(t => !LiteGraph.registered_node_types[t])"
OUTSIDE = "app.graph.nodes.map(n => [n.title, n.inputs.map(i => i.name), n.widgets.map(w => w.name)])"
SCALE = "app.graph.nodes[0].widgets.find(w => w.name == 'scale')"


def test_the_blueprint_is_offered(server):
    offered = {entry["name"]: key for key, entry in server.get("/global_subgraphs").items() if PACK in str(entry)}
    data = server.get(f"/global_subgraphs/{offered['Sample with RLG']}")["data"]
    assert json.loads(data) == json.loads(PATH.read_text(encoding="utf-8"))


def test_the_blueprint_is_whole(page, screenshots):
    open_workflow(page, PATH)
    assert sorted(page.evaluate(INSIDE)) == ["KSampler", "RLGApply"] and page.evaluate(UNKNOWN) == []
    ((title, inputs, widgets),) = page.evaluate(OUTSIDE)
    assert title == "Sample with RLG"
    assert inputs[:6] == ["model", "rl_model", "positive", "negative", "latent_image", "schedule"]
    shown = [name for name in widgets if name != "control_after_generate"]
    assert shown == ["scale", "seed", "steps", "cfg", "sampler_name", "scheduler"]
    page.screenshot(path=screenshots / "blueprint.png")
    page.evaluate(f"{SCALE}.value = 2.25")
    queued = page.evaluate("async () => (await app.graphToPrompt()).output")
    apply, sampler = (next(n for n in queued.values() if n["class_type"] == kind) for kind in ("RLGApply", "KSampler"))
    assert apply["inputs"]["scale"] == 2.25 and sampler["inputs"]["steps"] == 28
    assert queued[sampler["inputs"]["model"][0]] == apply
