"""Fixtures that are the same for both kinds of clients."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from harness.servers import Server
from tests.client.functions import Serving, served_app, serving_in_thread


@pytest.fixture
def serving(real_server: Server, namespace: str) -> Serving:
    """Runs a worker in a thread."""

    def serving(name: str = "w1") -> AbstractContextManager[None]:
        return serving_in_thread(served_app(real_server.url, namespace), name)

    return serving
