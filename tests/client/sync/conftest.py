"""The same tests for the client without asyncio."""

from __future__ import annotations

from tests.client.sync_side import client, exchanges, new_client

__all__ = ["client", "exchanges", "new_client"]
