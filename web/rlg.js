// What the pack's nodes show in the graph editor: the text a node reports stays on it, a preset of RLG Schedule shows its
// values (and "custom" the user's own again), and what a linked schedule replaces is greyed out. Everything works without
// this script too.

import { app } from "../../scripts/app.js";

const TEXT = "rlg_text";
const TEXT_HEIGHT = 72;
const COVERED = "rlg_covered_by_preset";
const REPLACED_BY_SCHEDULE = ["scale", "start_percent", "end_percent"];

// Text on a node

function textField(node) {
  const element = document.createElement("div");
  element.className = "rlg-text";
  element.dataset.captureWheel = "true"; // the wheel scrolls the text, not the canvas
  Object.assign(element.style, {
    whiteSpace: "pre-wrap",
    overflow: "auto",
    overflowWrap: "anywhere",
    userSelect: "text",
    boxSizing: "border-box",
    padding: "4px 6px",
    minHeight: `${TEXT_HEIGHT}px`,
    fontSize: "11px",
    lineHeight: "1.35",
    color: "var(--input-text, #ddd)",
    background: "var(--comfy-input-bg, #222)",
    borderRadius: "4px",
  });
  const widget = node.addDOMWidget(TEXT, "rlg_text", element, {
    serialize: false,
    getValue: () => element.textContent,
    setValue: () => {},
    getMinHeight: () => TEXT_HEIGHT,
  });
  widget.serialize = false; // neither in the workflow nor in what is queued
  return widget;
}

function showText(node, text) {
  let widget = node.widgets?.find((found) => found.name === TEXT);
  if (!text) {
    if (!widget) return;
    node.removeWidget(widget);
    node.setSize([node.size[0], widget.heightBefore]);
    return;
  }
  if (!widget) {
    const heightBefore = node.size[1];
    widget = textField(node);
    widget.heightBefore = heightBefore;
  }
  widget.element.textContent = text;
  const [width, height] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], height)]);
  node.setDirtyCanvas(true, true);
}

function showOutput(node, output) {
  if (output?.text !== undefined) showText(node, [output.text].flat().join("\n"));
}

// Values that something else replaces

function grey(node, names, replaced) {
  for (const widget of node.widgets ?? []) {
    if (names.includes(widget.name)) widget.disabled = replaced;
  }
  node.setDirtyCanvas(true, true);
}

// The user's own values, which a preset covers, are a property of the node: so they are saved, copied and undone with it.
function followPreset(node, presets) {
  const preset = node.widgets.find((widget) => widget.name === "preset");
  const names = Object.keys(Object.values(presets)[0]);
  const show = (values) => {
    for (const widget of node.widgets) {
      if (widget.name in values) widget.value = values[widget.name];
    }
  };
  const follow = () => {
    const values = presets[preset.value];
    if (values) {
      node.properties[COVERED] ??= valuesOf(node, names);
      show(values);
    } else if (node.properties[COVERED]) {
      show(node.properties[COVERED]);
      delete node.properties[COVERED];
    }
    grey(node, names, values !== undefined);
  };
  after(preset, "callback", follow);
  after(node, "onConfigure", follow);
}

function valuesOf(node, names) {
  return Object.fromEntries(node.widgets.filter((w) => names.includes(w.name)).map((w) => [w.name, w.value]));
}

function followSchedule(node) {
  const follow = () => {
    const linked = node.inputs.find((input) => input.name === "schedule")?.link != null;
    grey(node, REPLACED_BY_SCHEDULE, linked);
  };
  after(node, "onConnectionsChange", follow);
  after(node, "onConfigure", follow);
}

// The editor

function after(object, name, then) {
  const before = object[name];
  object[name] = function (...given) {
    const result = before?.apply(this, given);
    then.apply(this, given);
    return result;
  };
}

// The node that "3:12" names: node 12 in the subgraph that node 3 of the root graph stands for.
function nodeAt(path) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const id of String(path).split(":")) {
    node = graph?.getNodeById(Number(id));
    graph = node?.subgraph;
  }
  return node;
}

function isOurs(type) {
  return Boolean(type?.startsWith("RLG"));
}

app.registerExtension({
  name: "RLG",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (!isOurs(nodeData.name)) return;
    after(nodeType.prototype, "onExecuted", function (output) {
      showOutput(this, output);
    });
    const presets = nodeData.input?.optional?.preset?.[1]?.rlg_replaces;
    if (presets) {
      after(nodeType.prototype, "onNodeCreated", function () {
        followPreset(this, presets);
      });
    }
    if (nodeData.name === "RLGApply") {
      after(nodeType.prototype, "onNodeCreated", function () {
        followSchedule(this);
      });
    }
  },
  // Also called when a workflow's tab is opened again.
  onNodeOutputsUpdated(outputs) {
    for (const [path, output] of Object.entries(outputs)) {
      const node = nodeAt(path);
      if (isOurs(node?.type)) showOutput(node, output);
    }
  },
});
