"""Many at a time: started together, awaited together, and none of their results missed."""

from __future__ import annotations

import asyncio
import gc
import logging
from dataclasses import replace
from typing import Any

import pytest

from durasleep import Disposition, Durasleep, OtherFunction
from durasleep.client import Handle
from durasleep.settings import DEFAULTS
from durasleep.store.connection import Link
from durasleep.store.keys import LIMIT
from durasleep.sync import Client as SyncClient
from tests.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, failing, sleeping_workflow
from tests.service.workers import eventually, serving

MANY = 1_500  # more than one part


async def test_many_are_started_and_awaited_in_order(app: Durasleep, monkeypatch: pytest.MonkeyPatch) -> None:
    exchanges: list[int] = []
    exchange = Link.exchange

    async def counted(self: Link, commands: Any, *, block_s: float = 0.0) -> Any:
        exchanges.append(len(commands))
        return await exchange(self, commands, block_s=block_s)

    async with serving(app):
        await (await app.rpc("warm", double, 1))
        monkeypatch.setattr(Link, "exchange", counted)
        handles = await app.rpc_many(double, ((f"d-{n}", n) for n in range(MANY)))
        assert len(exchanges) < MANY / 10
        assert [handle.id for handle in handles] == [f"d-{n}" for n in range(MANY)]
        assert await app.gather(handles) == [2 * n for n in range(MANY)]
        again = await app.rpc_many(double, [("d-1", 7), ("new", 8)])
        assert [handle.disposition for handle in again] == [Disposition.FINISHED, Disposition.CREATED]
        assert await app.gather([*again, app.get("d-2", int)]) == [2, 16, 4]


async def test_what_one_raises_is_raised_or_stands_in_its_place(app: Durasleep) -> None:
    async with serving(app):
        handles: list[Handle[Any]] = [await app.rpc("good", double, 1), await app.rpc("bad", failing, "no such luck")]
        with pytest.raises(ValueError, match="no such luck"):
            await app.gather(handles)
        good, bad = await app.gather(handles, return_exceptions=True)
        assert good == 2
        assert isinstance(bad, ValueError)


async def test_one_that_is_refused_does_not_keep_those_beside_it_from_beginning(app: Durasleep) -> None:
    await app.rpc("used", sleeping_workflow, 3600)
    with pytest.raises(OtherFunction, match="used"):
        await app.rpc_many(double, [("a", 1), ("used", 2), ("b", 3)])
    async with serving(app):
        assert await app.gather([app.get("a"), app.get("b")]) == [2, 6]
        await app.cancel("used", force=True)


async def test_the_sync_client_starts_many_too(app: Durasleep, real_server: Server, namespace: str) -> None:
    def use() -> list[int]:
        with SyncClient(real_server.url, namespace=namespace) as client:
            handles = client.rpc_many(double, [(f"d-{n}", n) for n in range(100)])
            return [handle.result(timeout=30) for handle in handles]

    async with serving(app):
        assert await asyncio.to_thread(use) == [2 * n for n in range(100)]


async def test_a_reader_that_fell_behind_the_cap_of_its_inbox_looks_for_itself(
    new_app: NewApp, real_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the client does not read, more results come than its inbox may keep."""
    app, starter = new_app(settings=replace(DEFAULTS, batch_items_max=1)), new_app()
    count = 2 * LIMIT["inbox_entries_max"]
    may_read = asyncio.Event()
    exchange = Link.exchange

    async def held(self: Link, commands: Any, *, block_s: float = 0.0) -> Any:
        if self is app._inbox._link and commands[0][0] == b"XREAD":  # pyright: ignore[reportPrivateUsage]
            await may_read.wait()
        return await exchange(self, commands, block_s=block_s)

    monkeypatch.setattr(Link, "exchange", held)
    handles = await app.rpc_many(double, [(f"d-{n}", n) for n in range(count)])
    for handle in handles:
        handle.attach()
    async with serving(new_app(settings=replace(DEFAULTS, batch_items_max=1))):
        assert await starter.gather([starter.get(handle.id) for handle in handles]) == [2 * n for n in range(count)]
        key = app._inbox._key  # pyright: ignore[reportPrivateUsage]
        assert await real_server.client().xlen(key) < count
        may_read.set()
        async with asyncio.timeout(DEFAULTS.client_check_s / 2):
            assert await app.gather(handles) == [2 * n for n in range(count)]


async def test_handles_that_nobody_keeps_are_forgotten(app: Durasleep) -> None:
    inbox = app._inbox  # pyright: ignore[reportPrivateUsage]
    async with serving(app):
        await (await app.rpc("warm", double, 1))
        await eventually(
            lambda: inbox.is_listening and inbox._last != b"0-0",  # pyright: ignore[reportPrivateUsage]
            "the inbox to listen from where it stands",
        )
        kept = await app.rpc_many(sleeping_workflow, [(f"s-{n}", 3600) for n in range(10)])
        assert len(inbox._waiting) == 10  # pyright: ignore[reportPrivateUsage]
        del kept[1:]
        gc.collect()
        assert list(inbox._waiting) == ["s-0"]  # pyright: ignore[reportPrivateUsage]
        for n in range(10):
            await app.cancel(f"s-{n}", force=True)


async def test_what_goes_well_is_told_line_by_line_up_to_a_bound_and_counted_beyond(
    new_app: NewApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "durasleep")
    app = new_app(settings=replace(DEFAULTS, log_lines_max=3))
    async with serving(app):
        await app.gather(await app.rpc_many(double, [(f"d-{n}", n) for n in range(500)]))

        async def is_told() -> bool:
            return "and in the same second: " in caplog.text

        await eventually(is_told, "the count")
    lines = [record.message for record in caplog.records if " resolved after " in record.message]
    assert 3 <= len(lines) < 100
