"""The laws of docs/develop/architecture.md, one test each."""

from __future__ import annotations

from tests.service.fixtures import app, effects, new_app, workers

__all__ = ["app", "effects", "new_app", "workers"]
