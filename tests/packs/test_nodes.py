"""The nodes of third-party packs that make a model of a model, their samplers and guiders, run as the host's own."""

from __future__ import annotations

import os

import pytest

from support import compatibility, known_nodes, known_packs
from support.compatibility import Found, Pack
from support.every_node import small_models
from support.host import this_host
from support.node_graphs import graph_of
from support.node_inputs import NoGraph

VERSION = os.environ.get("RLG_HOST_VERSION", "unknown")

NOTHING = "none of its nodes makes a model of a model, a latent with one, a sampler or a guider"

pytestmark = pytest.mark.usefixtures("inference_mode")


def pytest_generate_tests(metafunc):
    if "node" not in metafunc.fixturenames:
        return
    there = [(pack, *item) for pack in known_packs.packs() for item in nodes_of(pack)]
    metafunc.parametrize(("pack", "kind", "node"), there, ids=[" ".join(filter(None, item)) for item in there])


def nodes_of(pack):
    """(kind, name) of each node; where there is none, an empty name and what is to be said instead."""
    folder = known_packs.folder_of(pack)
    if folder is None or this_host() is None:
        return [(f"RLG_PACKS names no folder with {pack} in it", "")]
    found, why = known_packs.load(this_host(), folder)
    why = why or ("" if found else NOTHING)
    compatibility.leave(VERSION, pack, Pack(known_packs.version_of(folder), (), why), {node for _, node in found})
    kinds = [(known_packs.KINDS.get(node, kind), node) for kind, node in found] or [(why, "")]
    return sorted(kinds, key=lambda item: item[1] in known_packs.LAST)


@pytest.fixture
def leave(pack):
    """Leaves what was found of one node for the page."""

    def left(item):
        before = compatibility.left(VERSION)[pack]
        names = {item.node, *(known.node for known in before.found)}
        compatibility.leave(VERSION, pack, Pack(before.version, (item,)), names)

    return left


@pytest.fixture(scope="module")
def files(host, tmp_path_factory):
    """What loaders are given, where the host finds it."""
    with known_nodes.files_in(host, tmp_path_factory.mktemp("packs"), small_models(host, "SD3")):
        yield


def test_as_two_separate_models_or_refused(request, host, pack, kind, node, leave):
    if not node:
        pytest.skip(kind)
    request.getfixturevalue("files")
    try:
        if node in known_packs.NOT_HERE:
            raise NoGraph(known_packs.NOT_HERE[node])
        verdicts = graph_of(host, kind, node, known_packs.GIVEN.get(node, known_nodes.Given())).verdicts()
    except NoGraph as error:
        leave(Found(kind, node, not_tried=str(error)))
        pytest.skip(f"{node}: {error}")
    bad = {place: verdict for place, verdict in verdicts.items() if verdict.outcome not in ("right", "refused")}
    leave(Found(kind, node, verdicts))
    assert not bad, {place: str(verdict) for place, verdict in bad.items()}
