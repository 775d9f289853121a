"""One server for the session."""

import pytest

from support.servers import running_server


def pytest_addoption(parser):
    parser.addoption("--mutations", type=int, default=40, help="how many mutated graphs to send")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with running_server(tmp_path_factory) as running:
        yield running
