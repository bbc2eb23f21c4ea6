"""Fixtures of the tests of metrics and health: those of the service, on one server of any kind."""

from __future__ import annotations

import pytest

from durasleep.devserver import DevServer
from harness.servers import MakeServer, Server
from tests.service.fixtures import app, effects, new_app, workers

__all__ = ["app", "effects", "new_app", "workers"]


@pytest.fixture
def real_server(one_server: Server) -> Server:
    """The server on which the fixtures of the service work."""
    return one_server


@pytest.fixture
def own_server(make_server: MakeServer, one_server: Server) -> DevServer:
    """A server that a test may stop."""
    return make_server(one_server.kind)
