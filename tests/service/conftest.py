"""Tests of the whole service: workers, clients and a real server."""

from __future__ import annotations

import pytest

from tests.service.fixtures import app, effects, new_app, workers

__all__ = ["app", "effects", "new_app", "workers"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "takeover: measures how long it takes until a dead worker's work goes on")
