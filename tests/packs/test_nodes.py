"""The nodes of third-party packs that make a model of a model, their samplers and guiders, run as the host's own."""

from __future__ import annotations

import os

import pytest

from support import compatibility, known_packs
from support.compatibility import Found, Pack
from support.host import this_host
from support.known_nodes import Given
from support.node_graphs import graph_of
from support.node_inputs import NoGraph

VERSION = os.environ.get("RLG_HOST_VERSION", "unknown")

pytestmark = pytest.mark.usefixtures("inference_mode")


def pytest_generate_tests(metafunc):
    if "node" not in metafunc.fixturenames:
        return
    there = [(pack, *item) for pack in known_packs.PACKS for item in nodes_of(pack)]
    metafunc.parametrize(("pack", "kind", "node"), there, ids=[" ".join(filter(None, item)) for item in there])


def nodes_of(pack):
    """(kind, name) of each node; where there is none, an empty name and what is to be said instead."""
    folder = known_packs.folder_of(pack)
    if folder is None or this_host() is None:
        return [(f"RLG_PACKS names no folder with {pack} in it", "")]
    found, why = known_packs.load(this_host(), folder)
    names = {node for _, node in found}
    compatibility.leave(VERSION, pack, Pack(known_packs.version_of(folder), (), why), names)
    return found or [(why or "no node of it makes a model, a sampler or a guider", "")]


@pytest.fixture
def leave(pack):
    """Leaves what was found of one node for the page."""

    def left(item):
        before = compatibility.left(VERSION)[pack]
        names = {item.node, *(known.node for known in before.found)}
        compatibility.leave(VERSION, pack, Pack(before.version, (item,)), names)

    return left


def test_as_two_separate_models_or_refused(host, pack, kind, node, leave):
    if not node:
        pytest.skip(kind)
    try:
        if node in known_packs.NOT_HERE:
            raise NoGraph(known_packs.NOT_HERE[node])
        verdicts = graph_of(host, kind, node, known_packs.GIVEN.get(node, Given())).verdicts()
    except NoGraph as error:
        leave(Found(kind, node, not_tried=str(error)))
        pytest.skip(f"{node}: {error}")
    leave(Found(kind, node, verdicts))
    bad = {place: str(verdict) for place, verdict in verdicts.items() if verdict.outcome not in ("right", "refused")}
    if bad and node in known_packs.WRONG_THERE:
        pytest.xfail(known_packs.WRONG_THERE[node])
    assert not bad, bad
