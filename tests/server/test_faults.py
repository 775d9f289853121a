"""Clients that go, and a server that is killed in a run: the same graphs give the same pictures afterwards."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from devtools import hosts
from devtools.console import Failure
from devtools.server import Server
from support.graphs import changed, load, pixels, without_guidance


def graphs():
    """The plain graph and a guided one, of few steps."""
    guided = changed(changed(load(), "RLGApply", scale=2.0), "KSampler", steps=4)
    return without_guidance(guided, "model"), guided


def picture(server, outputs):
    image = next(output["images"][0] for output in outputs.values() if output.get("images"))
    return Image.open(io.BytesIO(server.image(image))).convert("RGB").tobytes()


def test_prompts_of_clients_that_are_gone(server):
    """Nobody listens while three are in the queue, one of them to be interrupted."""
    plain, guided = graphs()
    expected = [pixels(server, graph) for graph in (plain, guided)]
    runs = [server.queue(changed(graph, "KSampler", seed=seed)) for seed in (8, 9) for graph in (guided, plain)]
    runs += [server.queue(graph) for graph in (plain, guided)]
    assert [picture(server, server.outputs(run)) for run in runs[-2:]] == expected


def test_a_server_killed_in_a_run(server, tmp_path):
    """Restarted in the same folder with the same graphs, it makes what another server makes; nothing half is left."""
    plain, guided = graphs()
    expected = [pixels(server, graph) for graph in (plain, guided)]
    long = changed(guided, "KSampler", steps=2000)
    folder = tmp_path / "server"

    def kill(node, value, steps):
        if value >= 3:
            killed.process.kill()

    with Server(hosts.from_environment(), folder) as killed:
        killed.queue(guided)
        with pytest.raises((Failure, OSError)):
            killed.run(long, kill)
    with Server(hosts.from_environment(), folder) as again:
        assert [pixels(again, graph) for graph in (plain, guided)] == expected
    left = [path for path in folder.rglob("*") if path.suffix in (".tmp", ".png")]
    for path in left:
        assert path.suffix == ".png"
        Image.open(path).load()
