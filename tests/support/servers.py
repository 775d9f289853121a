"""A real server for a session of tests: RLG_HOST_PATH names the ComfyUI, `devtools.lanes` sets it."""

import os
import shutil
from contextlib import contextmanager

import pytest

from devtools import hosts
from devtools.server import Server


@contextmanager
def running_server(tmp_path_factory, folder=None, packs=None):
    """The server, in a folder (one of its own) that is gone afterwards; skips where no ComfyUI is named.

    `packs` are its custom nodes by name, this one alone where none are given.
    """
    if not os.environ.get("RLG_HOST_PATH"):
        pytest.skip("RLG_HOST_PATH names no ComfyUI: run `python dev.py test`")
    folder = folder or tmp_path_factory.mktemp("server")
    with Server(hosts.from_environment(), folder, packs=packs) as server:
        yield server
    shutil.rmtree(folder, ignore_errors=True)
