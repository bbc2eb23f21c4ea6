"""Many at a time: started together, awaited together, and none of their results missed."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from durasleep import Durasleep, NotFound
from durasleep.client import inbox as inbox_module
from durasleep.client.client import attach, inbox_of, store_of
from durasleep.protocol.keys import LIMIT
from durasleep.settings import DEFAULTS
from durasleep.transport.connection import Link
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, sleeping_workflow
from tests.service.workers import eventually, link_of, serving

MANY = 1_500  # more than one part


@pytest.mark.usefixtures("in_one_partition")
async def test_a_reader_that_fell_behind_the_cap_of_its_inbox_looks_for_itself(
    new_app: NewApp, real_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the client does not read, more results come than its inbox may keep."""
    app, starter = new_app(settings=replace(DEFAULTS, batch_items_max=1)), new_app()
    count = 2 * LIMIT["inbox_entries_max"]
    may_read = asyncio.Event()
    exchange = Link.exchange

    async def held(self: Link, commands: Any, *, block_s: float = 0.0) -> Any:
        if self is inbox_of(app).stream("any")._link and commands[0][0] == b"XREAD":  # pyright: ignore[reportPrivateUsage]
            await may_read.wait()
        return await exchange(self, commands, block_s=block_s)

    monkeypatch.setattr(Link, "exchange", held)
    handles = await app.rpc_many(double, [(f"d-{n}", n) for n in range(count)])
    await attach(handles)
    async with serving(new_app(settings=replace(DEFAULTS, batch_items_max=1))):
        assert await starter.gather([starter.get(handle.id) for handle in handles]) == [2 * n for n in range(count)]
        key = inbox_of(app).stream("any")._key  # pyright: ignore[reportPrivateUsage]
        assert await real_server.client().xlen(key) < count
        may_read.set()
        async with asyncio.timeout(DEFAULTS.client_check_s / 2):
            assert await app.gather(handles) == [2 * n for n in range(count)]


@pytest.mark.usefixtures("in_one_partition")
async def test_handles_that_nobody_keeps_are_forgotten(app: Durasleep) -> None:
    await store_of(app)
    inbox = inbox_of(app).stream("any")
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


@asynccontextmanager
async def _listening(app: Durasleep) -> AsyncGenerator[bytes]:
    """The inbox of an application is read from where it stands, as long as this lasts; gives its key."""
    inbox = inbox_of(app).stream("any")
    awaited = await app.promises.create("awaited")
    await attach([awaited])
    await eventually(
        lambda: inbox.is_listening and inbox._last != b"0-0",  # pyright: ignore[reportPrivateUsage]
        "the inbox to listen from where it stands",
    )
    await attach([awaited])  # who attached before that was told to look for himself
    yield inbox._key  # pyright: ignore[reportPrivateUsage]
    await app.promises.cancel("awaited")


@pytest.mark.usefixtures("in_one_partition")
async def test_an_entry_told_in_another_way_is_heard_and_one_without_a_value_is_looked_up(
    app: Durasleep, real_server: Server
) -> None:
    """One entry may tell of many; what is odd about one of them is not laid to the others."""
    handles = [await app.promises.create(id) for id in ("common", "short", "bare", "barer", "strange", "after")]
    one, two = app.codec.encode(1, "one"), app.codec.encode(2, "two")

    def common(id: bytes, value: bytes, state: bytes = b"r") -> list[bytes]:
        return [b"i", id, b"b", b"5", b"s", state, b"v", value]

    told: list[list[bytes]] = [
        [
            *common(b"common", one),
            *(b"i", b"short", b"s", b"r", b"v", two),
            *(b"i", b"bare", b"b", b"5", b"s", b"r"),
            *(b"i", b"barer", b"s", b"r"),  # as many words as three common ones
        ],
        [*common(b"strange", one, b"?"), *common(b"\xff", one), *common(b"nobody's", one), *common(b"after", two)],
    ]
    async with _listening(app) as key:
        await attach(handles)
        for fields in told:
            await real_server.client().execute_command("XADD", key, "*", *fields)
        # None of them has settled: the values are those they were told.
        assert await app.gather([handles[0], handles[1], handles[5]]) == [1, 2, 2]
        gathering = asyncio.create_task(app.gather(handles))
        for id, value in (("bare", 3), ("barer", 4), ("strange", 5)):
            await app.promises.resolve(id, value)
        assert await gathering == [1, 2, 3, 4, 5, 2]
    for id in ("common", "short", "after"):
        await app.promises.cancel(id)


async def test_a_gather_that_is_cancelled_half_way_leaves_its_handles_as_they_are(app: Durasleep) -> None:
    await app.promises.create("first")
    await app.promises.create("second")
    handles = [app.get("first"), app.get("second")]
    gathering = asyncio.create_task(app.gather(handles))
    await app.promises.resolve("first", 1)
    await eventually(handles[0]._known, "the first to be told")  # pyright: ignore[reportPrivateUsage]
    gathering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathering
    again = asyncio.create_task(app.gather(handles))
    await app.promises.resolve("second", 2)
    assert await again == [1, 2]


@pytest.mark.usefixtures("in_one_partition")
async def test_of_several_handles_of_one_id_each_is_told_and_any_may_go(app: Durasleep) -> None:
    await app.promises.create("one")
    inbox = inbox_of(app).stream("any")
    handles = [app.get("one") for _ in range(5)]
    async with _listening(app):
        await attach(handles)
        for gone in (2, 0, -1):  # from the middle and from both ends
            del handles[gone]
        gc.collect()
        gathering = asyncio.create_task(app.gather([*handles, *handles]))
        await app.promises.resolve("one", 7)
        assert await gathering == [7, 7, 7, 7]
        assert list(inbox._waiting) == ["awaited"]  # pyright: ignore[reportPrivateUsage]


async def test_handles_of_another_client_are_gathered_by_that_client(app: Durasleep, new_app: NewApp) -> None:
    other = new_app()
    await app.promises.create("ours")
    await app.promises.create("theirs")
    handles = [app.get("ours"), other.get("theirs"), app.get("ours~1")]
    gathering = asyncio.create_task(app.gather(handles, return_exceptions=True))
    await app.promises.resolve("ours", 1)
    await app.promises.resolve("theirs", 2)
    ours, theirs, missing = await gathering
    assert (ours, theirs, type(missing)) == (1, 2, NotFound)


@pytest.mark.usefixtures("in_one_partition")
async def test_what_the_inbox_may_have_missed_is_asked_for_together(
    app: Durasleep, new_app: NewApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchanges: list[int] = []
    exchange = Link.exchange
    ours = await link_of(app)

    async def counted(self: Link, commands: Any, *, block_s: float = 0.0) -> Any:
        if self is ours:
            exchanges.append(len(commands))
        return await exchange(self, commands, block_s=block_s)

    async with _listening(app):
        handles = await app.rpc_many(double, [(f"d-{n}", n) for n in range(MANY)])
        gathering = asyncio.create_task(app.gather(handles))
        await asyncio.sleep(0)  # it waits for the first
        monkeypatch.setattr(Link, "exchange", counted)
        inbox_of(app).stream("any")._notify_to_look()  # pyright: ignore[reportPrivateUsage]
        async with serving(new_app()):
            assert await gathering == [2 * n for n in range(MANY)]
        assert len(exchanges) < MANY / 10


@pytest.mark.usefixtures("in_one_partition")
async def test_who_waits_for_one_is_not_kept_waiting_by_a_gather_of_many(
    app: Durasleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "MANY", 1)
    monkeypatch.setattr(inbox_module, "LEISURE_S", 3600.0)
    handles = [await app.promises.create(id) for id in ("first", "last", "alone")]
    async with _listening(app):
        await attach(handles)
        gathering = asyncio.create_task(app.gather(handles[:2]))
        alone = asyncio.create_task(handles[2].result())
        await app.promises.resolve("first", 1)
        await app.promises.resolve("alone", 2)
        assert await alone == 2
        gathering.cancel()
    await app.promises.cancel("last")


async def test_what_is_read_at_leisure_is_all_there(app: Durasleep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "MANY", 10)
    monkeypatch.setattr(inbox_module, "LEISURE_S", 0.02)
    async with serving(app):
        await (await app.rpc("warm", double, 1))
        handles = await app.rpc_many(double, [(f"d-{n}", n) for n in range(MANY)])
        assert await app.gather(handles) == [2 * n for n in range(MANY)]
