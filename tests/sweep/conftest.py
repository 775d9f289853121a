"""One server for the session, which has the models of the demo."""

import pytest

from support.servers import running_server

pytest.importorskip("ray")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with running_server(tmp_path_factory) as running:
        yield running
