"""The graph editor in a real browser: opening a workflow, changing it, running it, and reading what its nodes show."""

import json

from devtools.paths import ROOT

STARTER = ROOT / "workflows" / "RLG One Picture.json"
NODE = "app.graph.nodes.find(n => n.type == type)"
TEXT = f"type => {NODE}.widgets.find(w => w.name == 'rlg_text')?.element.textContent ?? ''"
DONE = "() => window.rlgEnded"
LISTEN = """() => {
  window.rlgEnded = '';
  for (const end of ['execution_success', 'execution_error', 'execution_interrupted'])
    app.api.addEventListener(end, () => { window.rlgEnded = end; }, { once: true });
}"""


def open_workflow(page, path=STARTER):
    """Load a workflow file into the editor, as dropping it there does."""
    page.evaluate("graph => app.loadGraphData(graph)", json.loads(path.read_text(encoding="utf-8")))
    page.wait_for_timeout(500)


def set_widget(page, node_type, name, value):
    """Give a widget a value, as a person does: the editor's callbacks run."""
    page.evaluate(
        f"""([type, name, value]) => {{
            const node = {NODE}, widget = node.widgets.find(w => w.name == name);
            widget.value = value;
            widget.callback?.(value, app.canvas, node);
        }}""",
        [node_type, name, value],
    )


def connect(page, source, output, target, name):
    """Wire output number `output` of a node to an input of another; nodes are named by their types."""
    page.evaluate(
        """([source, output, target, name]) => {
            const of = type => app.graph.nodes.find(n => n.type == type);
            of(source).connect(output, of(target), of(target).inputs.findIndex(i => i.name == name));
        }""",
        [source, output, target, name],
    )


def add_node(page, node_type):
    """Put a new node into the graph."""
    page.evaluate("type => { app.graph.add(LiteGraph.createNode(type)) }", node_type)


def widgets(page, node_type):
    """{name: (value, whether it is greyed out)} of a node's widgets."""
    told = page.evaluate(
        f"type => {NODE}.widgets.map(w => [w.name, w.element ? null : w.value, Boolean(w.disabled)])", node_type
    )
    return {name: (value, disabled) for name, value, disabled in told}


def open_help(page, node_type):
    """Show a node's help page, as the info button beside a chosen node does."""
    page.evaluate(f"type => app.canvas.selectNode({NODE})", node_type)
    page.locator("[data-testid=info-button]").first.dispatch_event("click")  # a bar of the editor may lie over it


def reopen(page):
    """Save the graph and load what was saved, as closing and opening its tab does."""
    page.evaluate("app.loadGraphData(app.graph.serialize())")
    page.wait_for_timeout(500)


def run(page, seed):
    """Queue the graph with a seed, so that it is sampled anew, and wait for its end; return how it ended."""
    set_widget(page, "KSampler", "seed", seed)
    page.evaluate(LISTEN)
    page.evaluate("app.queuePrompt(0)")
    page.wait_for_function(DONE)
    page.wait_for_timeout(500)
    return page.evaluate(DONE)


def text_on(page, node_type):
    """The text that a node shows, "" where it shows none."""
    return page.evaluate(TEXT, node_type)
