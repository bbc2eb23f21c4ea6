"""Tests of the whole service: workers, clients and a real server."""

from __future__ import annotations

from tests.service.fixtures import admin, app, effects, new_app, own_server, workers

__all__ = ["admin", "app", "effects", "new_app", "own_server", "workers"]
