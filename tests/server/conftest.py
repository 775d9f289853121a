"""One server for the session."""

import pytest

from support.servers import running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with running_server(tmp_path_factory) as running:
        yield running
