"""A real server and a real Chromium on it; skipped, visibly, where there is none."""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

from devtools.paths import HOME
from support.servers import running_server

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE = 240_000  # milliseconds: the editor is 20 MB of scripts, and a busy machine takes its time


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with running_server(tmp_path_factory) as running:
        running.read("/settings/Comfy.TutorialCompleted", True)
        yield running


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine: .ci/run installs one where apt can")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=FLAGS)


@pytest.fixture(scope="session")
def page(server, browser):
    """The graph editor, started once: every workflow opens in a tab of its own."""
    tab = browser.new_page(viewport={"width": 1800, "height": 1000})
    tab.set_default_timeout(PATIENCE)
    tab.goto(server.url)
    tab.wait_for_function("window.app?.graph && window.app.extensionManager && document.querySelector('canvas')")
    tab.wait_for_function("Object.keys(LiteGraph.registered_node_types).length > 300")
    return tab


@pytest.fixture(scope="session")
def screenshots():
    """The folder for screenshots of the host or graph editor under test, to be looked at."""
    tested = os.environ.get("RLG_SCREENSHOTS") or os.environ.get("RLG_HOST_VERSION", "unknown")
    folder = HOME / "screenshots" / tested
    folder.mkdir(parents=True, exist_ok=True)
    return folder
