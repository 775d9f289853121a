"""Every stock node that makes a model of a model, every sampler and every guider: as two separate models, or refused.

They come from the host's own registry, so that those of a new release are run the day it comes.
"""

from __future__ import annotations

import os

import pytest

from support import compatibility, known_nodes
from support.compatibility import Found, Pack
from support.every_node import small_models
from support.host import this_host
from support.node_graphs import graph_of, listed

VERSION = os.environ.get("RLG_HOST_VERSION", "unknown")

pytestmark = pytest.mark.usefixtures("inference_mode")


def pytest_generate_tests(metafunc):
    if "node" in metafunc.fixturenames:
        there = listed(this_host()) if this_host() else []
        metafunc.parametrize(("kind", "node"), there, ids=[f"{kind} {node}" for kind, node in there])


@pytest.fixture(scope="module")
def files(host, tmp_path_factory):
    """What loaders are given, where the host finds it."""
    folder = tmp_path_factory.mktemp("every_node")
    with known_nodes.files_in(host, folder, small_models(host, "SD3")):
        yield


@pytest.fixture(scope="module")
def found(host):
    """What this run finds. It is left for the page in the end, as every node's verdicts are in one file."""
    items = []
    yield items
    compatibility.leave(VERSION, compatibility.STOCK, Pack("", tuple(items)), {node for _, node in listed(host)})


def test_as_two_separate_models_or_refused(host, files, found, kind, node):
    if node in known_nodes.NOT_HERE:
        found.append(Found(kind, node, not_tried=known_nodes.NOT_HERE[node]))
        pytest.skip(known_nodes.NOT_HERE[node])
    verdicts = graph_of(host, kind, node, known_nodes.GIVEN.get(node, known_nodes.Given())).verdicts()
    found.append(Found(kind, node, verdicts))
    bad = {place: str(verdict) for place, verdict in verdicts.items() if verdict.outcome not in ("right", "refused")}
    assert not bad, bad


def test_the_page_says_what_was_found(host, found):
    told = compatibility.on_page(compatibility.PAGE.read_text(encoding="utf-8"), compatibility.STOCK, VERSION)
    if told is None:
        pytest.skip("docs/COMPATIBILITY.md knows nothing of this host")
    now = {(item.kind, item.node): str(item) for item in found}
    assert told == told | now and told.keys() == set(listed(host)), "run python -m tests.support.compatibility"
