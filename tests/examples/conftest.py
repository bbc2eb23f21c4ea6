"""Tests of the examples, on a real server, some with workers in processes of their own."""

from __future__ import annotations

from tests.service.fixtures import app, effects, new_app, own_server, workers

__all__ = ["app", "effects", "new_app", "own_server", "workers"]
