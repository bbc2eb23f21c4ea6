"""Ten thousand children of one workflow, gathered in order, and no script call or reply over its bounds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import pytest

from durasleep import Durasleep
from durasleep.protocol.keys import LIMIT
from durasleep.protocol.script import Value, to_bytes
from durasleep.settings import DEFAULTS
from durasleep.transport.connection import Link
from durasleep.transport.reply_errors import Reply
from harness.servers import Server
from tests.service.functions import gathering
from tests.service.workers import serving

pytestmark = pytest.mark.long

CHILDREN = 10_000
ROOM_BYTES = 64 * 1024  # for keys, ids and lengths around what is bounded


def size_of(value: object) -> int:
    """The bytes of a command or a reply."""
    if isinstance(value, bytes):
        return len(value)
    return sum(map(size_of, cast("list[object]", value))) if isinstance(value, list | tuple) else 8


@pytest.mark.timeout(300)
async def test_ten_thousand_children_are_gathered_in_order_within_all_bounds(
    app: Durasleep, real_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    largest = {"command": 0, "reply": 0, "items of a commit": 0}
    exchange = Link.exchange

    async def watched(self: Link, commands: Sequence[Sequence[Value]], *, block_s: float = 0.0) -> list[Reply]:
        replies = await exchange(self, commands, block_s=block_s)
        for command, reply in zip(commands, replies, strict=True):
            largest["command"] = max(largest["command"], sum(len(to_bytes(word)) for word in command))
            largest["reply"] = max(largest["reply"], size_of(reply))
            largest["items of a commit"] = max(largest["items of a commit"], command.count("child"))
        return replies

    monkeypatch.setattr(Link, "exchange", watched)
    client: Any = real_server.sync_client()
    client.config_set("slowlog-log-slower-than", 200_000)  # all children in one script would take longer
    client.slowlog_reset()
    caplog.set_level(logging.INFO, logger="durasleep")
    async with serving(app, concurrency=200):
        handle = await app.rpc("fan-out", gathering, CHILDREN)
        assert await handle.result(timeout=240) == [2 * number for number in range(CHILDREN)]
    slow = [entry["command"][:60] for entry in client.slowlog_get(128)]
    client.config_set("slowlog-log-slower-than", 10_000)
    assert largest["items of a commit"] <= DEFAULTS.commit_ops_max
    assert largest["command"] <= DEFAULTS.batch_bytes_max + ROOM_BYTES
    assert largest["reply"] <= LIMIT["answer_bytes_max"] + ROOM_BYTES
    assert slow == []
    # Settlements that come while the parent is awake or queued are one wake-up: not ten thousand.
    assert sum("fan-out suspended" in record.getMessage() for record in caplog.records) < CHILDREN / 100
