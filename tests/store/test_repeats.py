"""What is noted of requests that are repeated under a key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durasleep.errors import StoreRefused
from durasleep.protocol import repeats
from harness.servers import Server
from tests.store.driver import Driver


async def test_who_may_not_note_anything_is_told_so(one_server: Server, namespace: str) -> None:
    redis: Any = one_server.client()
    await redis.acl_setuser("reader", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-set"], reset=True)
    reader = Driver(one_server.client(username="reader", password=""), namespace)
    async with reader.store.opened(), asyncio.timeout(5):
        with pytest.raises(StoreRefused):
            await reader.store.run(repeats.claim(reader.keys, "key", b"mark", ttl_ms=1000))
    await redis.acl_deluser("reader")
