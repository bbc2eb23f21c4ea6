"""Tests of the client's methods. scripts/generate_sync.py writes those in ``sync`` from these."""

from __future__ import annotations

from tests.client.async_side import client, exchanges, new_client
from tests.client.fixtures import serving
from tests.service.fixtures import effects

__all__ = ["client", "effects", "exchanges", "new_client", "serving"]
