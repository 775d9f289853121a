"""Graphs with values of other kinds, wrong wires and lost inputs: refused, run, or ended by an error of the pack's own.

Graphs are numbered, and each is made from its number; `--mutations 400` has more of them.
"""

from __future__ import annotations

import copy
import random

import pytest

from devtools.server import RunFailed
from support.graphs import WORKFLOWS, changed, load, node, pixels, without_guidance

UNKNOWN = "an input that is none"
VALUES = (
    *(None, True, 0, -1, 1e308, 2**70, 0.5, "", "x", "\u4e2d\u202e", "\ud800", "../../etc/passwd", "C:\\x", "a\0b"),
    *([], {}, ["base", 7], ["nobody", 0], ["base", "x"], [[]], {"a": []}, "z" * 1_000_000, "1, nan", float("nan")),
)


@pytest.fixture(scope="module")
def small():
    """The shipped graphs with a few steps on small pictures; what is searched or scored is searched for a little."""
    graphs = []
    for path in WORKFLOWS:
        graph = load(path)
        for spec in graph.values():
            for name, value in {"steps": 1, "width": 64, "height": 64, "batch_size": 1, "evaluations": 1}.items():
                if name in spec["inputs"]:
                    spec["inputs"][name] = value
        graphs.append(graph)
    return graphs


def mutated(draw: random.Random, graph: dict) -> dict:
    """A copy with one to three things changed, mostly at the pack's own nodes."""
    graph = copy.deepcopy(graph)
    for _ in range(draw.choice((1, 1, 2, 3))):
        own = [name for name, spec in graph.items() if spec["class_type"].startswith("RLG")]
        name = draw.choice(own if own and draw.random() < 0.8 else list(graph))
        inputs = graph[name]["inputs"]
        key = draw.choice([*inputs, UNKNOWN])
        wires = [[other, slot] for other in graph for slot in range(3)]
        kind = draw.random()
        if kind < 0.55:
            inputs[key] = draw.choice(VALUES)
        elif kind < 0.85:
            inputs[key] = draw.choice(wires)
        elif kind < 0.95:
            inputs.pop(key, None)
        else:
            del graph[name]
        if isinstance(inputs.get(UNKNOWN), list):  # a wire from an output that is none would end the host's own worker
            del inputs[UNKNOWN]
    return graph


def pytest_generate_tests(metafunc):
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(metafunc.config.getoption("--mutations")))


def test_no_error_but_our_own(server, small, number):
    draw = random.Random(number)
    graph = mutated(draw, draw.choice(small))
    try:
        server.run(graph)
    except RunFailed as failure:
        detail = failure.detail
        if "node_errors" in detail:
            errors = [
                (spec["class_type"], error) for spec in dict(detail["node_errors"]).values() for error in spec["errors"]
            ]
            ours = [error for cls, error in errors if cls.startswith("RLG")]
            # The host's own validation stumbles over wires to nowhere; ours must not.
            told = [str(error) for error in ours if "exception" in error["type"]]
            assert not [text for text in told if "ComfyUI-RLG" in text or "validate_inputs()" in text]
        elif detail.get("node_type", "").startswith("RLG"):
            assert detail["exception_type"].startswith("RLG."), detail["traceback"]
            assert len(detail["exception_message"]) < 2000


def test_the_plain_graph_is_as_before(server):
    """After all of them, in the same server."""
    graph = changed(without_guidance(load(), "model"), "KSampler", steps=3)
    first = pixels(server, graph)
    assert first == pixels(server, changed(changed(load(), "RLGApply", scale=0), "KSampler", steps=3))
    assert node(graph, "KSampler")
