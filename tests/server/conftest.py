"""A real server for each session of tests: RLG_HOST_PATH names the ComfyUI, `devtools.lanes` sets it."""

import os
import shutil
from pathlib import Path

import pytest

from devtools import hosts
from devtools.server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    if not os.environ.get("RLG_HOST_PATH"):
        pytest.skip("RLG_HOST_PATH names no ComfyUI: run `python dev.py test`")
    folder = tmp_path_factory.mktemp("server")
    with Server(hosts.from_environment(), folder) as running:
        yield running
    shutil.rmtree(Path(folder), ignore_errors=True)
