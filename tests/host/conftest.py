"""The host that RLG_HOST_PATH names, in this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from support.host import leave_repository, start_host

leave_repository()  # before the tests are imported


@pytest.fixture(scope="session")
def host() -> SimpleNamespace:
    root = os.environ.get("RLG_HOST_PATH")
    if not root:
        pytest.skip("RLG_HOST_PATH names no ComfyUI")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return start_host(Path(root))


@pytest.fixture(scope="module")
def inference_mode() -> Iterator[None]:
    """The host runs nodes in it; loaders must work there."""
    with torch.inference_mode():
        yield
