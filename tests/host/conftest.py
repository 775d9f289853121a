"""The host that RLG_HOST_PATH names, in this process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from support.host import leave_repository, this_host

leave_repository()  # before the tests are imported


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "at how many operations of a pass to run out of memory"
    parser.addoption("--places", choices=("ten", "all"), default="ten", help=told)


@pytest.fixture(scope="session")
def host() -> SimpleNamespace:
    return this_host() or pytest.skip("RLG_HOST_PATH names no ComfyUI")


@pytest.fixture(scope="module", autouse=True)
def collections_are_short(host: SimpleNamespace) -> None:
    """Collections of garbage look through what a file's own tests make, not through all that was imported before.

    The host collects at every load for as long as a patcher died before its model: half a second each time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def inference_mode() -> Iterator[None]:
    """The host runs nodes in it; loaders must work there."""
    with torch.inference_mode():
        yield
