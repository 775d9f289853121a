"""The host that RLG_HOST_PATH names, with packs out of the folder that RLG_PACKS names loaded beside this one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from support import known_packs
from support.host import leave_repository, this_host

leave_repository()  # before the tests are imported


@pytest.fixture(scope="session")
def host() -> SimpleNamespace:
    return this_host() or pytest.skip("RLG_HOST_PATH names no ComfyUI")


@pytest.fixture(scope="session")
def load_pack(host) -> Callable[[str], None]:
    """Has the host load a pack by its folder's name; skips where it is not there."""

    def loaded(name: str) -> None:
        path = known_packs.folder_of(name)
        if path is None:
            pytest.skip(f"RLG_PACKS names no folder with {name} in it, or RLG_PACK another pack")
        node = host.nodes.load_custom_node(str(path), module_parent="custom_nodes")
        assert asyncio.run(node), f"the host could not load {name}"

    return loaded


@pytest.fixture(scope="module")
def inference_mode() -> Iterator[None]:
    """The host runs nodes in it; loaders must work there."""
    with torch.inference_mode():
        yield
