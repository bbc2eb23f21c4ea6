"""Garbage in Redis, written by somebody else: quarantined and named, and the rest goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, cast

import pytest

from durasleep import Durasleep, StoreUnavailable
from durasleep.client.client import inbox_of, store_of
from durasleep.errors import CorruptData, SchemaMismatch
from durasleep.protocol.keys import F, meta_key
from durasleep.protocol.script import Value
from durasleep.transport.connection import Link
from durasleep.transport.reply_errors import Reply
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, nap, passage
from tests.service.workers import Effects, eventually, load_from_hash, serving, until

pytestmark = pytest.mark.leaves_keys("garbage has no owner")


def _halted(client: Any, app_keys: Any) -> str:
    return b"\n".join(client.zrange(app_keys.halted, 0, -1)).decode(errors="replace")


async def _goes_on(app: Durasleep, effects: Effects, id: str = "healthy") -> None:
    assert await (await app.rpc(id, nap, effects.path, 0.05)).result(timeout=30) == f"{id} slept for 0.05 seconds"


@pytest.mark.usefixtures("in_one_partition")
async def test_garbage_in_a_stream_is_quarantined(
    app: Durasleep, real_server: Server, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    stream = keys.queue("workers")
    client.xadd(stream, {b"\xff": b"\x00"})
    client.xadd(stream, {"i": b"\xff\xfe", "e": "1"})
    client.xadd(stream, {"i": "no-such-id", "e": "1"})
    client.xadd(stream, {"i": "no-such-id", "e": "many"})
    with caplog.at_level(logging.INFO, "durasleep"):
        async with serving(app):
            await _goes_on(app, effects)
            await eventually(lambda: client.xlen(stream) == 0, "the stream to be empty")
    assert client.xpending(stream, "workers")["pending"] == 0
    assert _halted(client, keys).count("queue:workers:") == 3
    assert caplog.text.count("quarantined") == 3


@pytest.mark.usefixtures("in_one_partition")
async def test_a_broken_hash_is_halted_or_refused_by_name(
    app: Durasleep, real_server: Server, effects: Effects
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    await app.rpc("bad-args", double, 1)
    client.hset(keys.promise("bad-args"), F["args"], b"\xc1 never MessagePack")
    await app.rpc("bad-journal", nap, effects.path, 1)
    client.hset(keys.promise("bad-journal"), "1", b"not an entry")
    await app.rpc("bad-kind", double, 1)
    client.hset(keys.promise("bad-kind"), F["kind"], b"?")
    for id in ("bad-args", "bad-kind"):
        load_from_hash(client, keys, id)
    client.set(keys.promise("a-string"), "surprise")
    client.hset(keys.promise("a-hash"), "colour", "green")
    async with serving(app):
        for name in ("bad-args", "bad-journal", "bad-kind"):
            await eventually(lambda name=name: name in _halted(client, keys), f"{name} to be quarantined")
        assert "not one of ours" in ((await until(app, "bad-args", "halted")).reason or "")
        for id in ("bad-journal", "bad-kind"):
            with pytest.raises(CorruptData, match="not one of ours"):
                await app.describe(id)
        for id in ("a-string", "a-hash"):
            with pytest.raises(CorruptData, match=id):
                await app.rpc(id, double, 1)
        await _goes_on(app, effects)
    assert client.get(keys.promise("a-string")) == b"surprise"
    assert client.hgetall(keys.promise("a-hash")) == {b"colour": b"green"}


HUGE = b"x" * 10_000_000
HUGE_ENTRY = b"ss\t1\t\tstep\t\n" + HUGE


@pytest.mark.parametrize("where", ["args", "more_args", "1", "func", "reason"])
@pytest.mark.usefixtures("in_one_partition")
async def test_what_is_far_too_large_never_reaches_a_worker(
    app: Durasleep, real_server: Server, effects: Effects, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    await app.rpc("huge", nap, effects.path, 1)
    client.hset(keys.promise("huge"), F.get(where, where), HUGE_ENTRY if where == "1" else HUGE)
    load_from_hash(client, keys, "huge")
    largest = watch_replies(monkeypatch)
    async with serving(app):
        await eventually(lambda: "huge" in _halted(client, keys), "it to be quarantined")
        if where != "reason":  # of which there is another one by now
            with pytest.raises(CorruptData, match="huge"):
                await app.describe("huge")
        await _goes_on(app, effects)
    assert max(largest) < 1_000_000


@pytest.mark.parametrize("by", ["its id", "calling again"])
@pytest.mark.usefixtures("in_one_partition")
async def test_a_result_that_is_far_too_large_never_reaches_a_client(
    app: Durasleep, real_server: Server, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    async with serving(app):
        assert await (await app.rpc("huge", double, 1)) == 2
    client.hset(keys.promise("huge"), F["value"], HUGE)
    largest = watch_replies(monkeypatch)
    with pytest.raises(CorruptData, match="huge"):
        await (app.get("huge") if by == "its id" else await app.rpc("huge", double, 1))
    with pytest.raises(CorruptData, match="huge"):
        await app.get("huge").done()
    assert max(largest) < 1_000_000


@pytest.mark.usefixtures("in_one_partition")
async def test_a_hint_that_is_far_too_large_is_not_taken_for_a_result(
    app: Durasleep, real_server: Server, effects: Effects
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    async with serving(app):
        handle = await app.rpc("passage", passage, effects.path)
        await effects.standing("gate")
        waiting = asyncio.create_task(handle.result())
        inbox = keys.inbox(inbox_of(app).name)
        await eventually(lambda: inbox_of(app).stream("any").is_listening and client.exists(inbox), "it to listen")
        client.xadd(inbox, {"i": "passage", "b": "1", "s": "r", "v": HUGE})
        await _goes_on(app, effects)  # told by the same inbox, later
        assert not waiting.done()
        effects.open("gate")
        assert await waiting == "through gate"


@pytest.mark.usefixtures("in_one_partition")
async def test_a_journal_that_is_far_too_large_is_not_loaded_to_its_end(
    app: Durasleep, real_server: Server, effects: Effects, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    await app.rpc("huge", nap, effects.path, 1)
    client.hset(keys.promise("huge"), F["order"], 10**6)
    for number in range(60):
        client.hset(keys.promise("huge"), str(100 + number), b"sr\t%d\t\tstep\t\n" % (number + 1) + HUGE[:1_000_000])
    load_from_hash(client, keys, "huge")
    replies = watch_replies(monkeypatch)
    async with serving(app):
        await eventually(lambda: "huge" in _halted(client, keys), "it to be quarantined")
        await _goes_on(app, effects)
    # What may be loaded, and the least that HSCAN gives, which in Valkey is a bucket of several entries.
    assert sum(replies) < keys.journal_bytes_max + 17_000_000


def watch_replies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each reply from now on."""
    sizes: list[int] = [0]
    exchange = Link.exchange

    async def watched(self: Link, commands: Sequence[Sequence[Value]], *, block_s: float = 0.0) -> list[Reply]:
        replies = await exchange(self, commands, block_s=block_s)
        sizes.extend(map(_bytes_of, replies))
        return replies

    monkeypatch.setattr(Link, "exchange", watched)
    return sizes


def _bytes_of(reply: Any) -> int:
    if isinstance(reply, list):
        return sum(map(_bytes_of, cast("list[Any]", reply)))
    return len(reply) if isinstance(reply, bytes) else 0


@pytest.mark.usefixtures("in_one_partition")
async def test_garbage_among_the_timers_is_quarantined(app: Durasleep, real_server: Server, effects: Effects) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    client.zadd(keys.timers, {b"no tilde": 1, b"~\xffwhat": 2, b"gone~1": 3, b"gone~timeout": 4, b"far~never": 9e15})
    client.set(keys.promise("odd"), "a string")
    client.zadd(keys.timers, {b"odd~1": 5})
    async with serving(app):
        await _goes_on(app, effects)
        await eventually(lambda: client.zcount(keys.timers, 0, 10) == 0, "due garbage to be gone")
    quarantined = _halted(client, keys)
    assert all(f"timers:{name}" in quarantined for name in ("no tilde", "odd~1"))
    assert "what: INVALID" in quarantined


@pytest.mark.usefixtures("in_one_partition")
async def test_keys_of_another_type_are_named_and_others_are_served(
    app: Durasleep, new_app: NewApp, real_server: Server, effects: Effects
) -> None:
    client: Any = real_server.sync_client()
    keys = (await store_of(app)).keyspaces[-1]
    client.set(keys.queue("broken"), "a string")
    with pytest.raises(CorruptData, match="queue:broken holds a string"):
        await app.rpc("x", double, 1, target="broken")
    with pytest.raises(CorruptData, match="queue:broken holds a string, not a stream"):
        await new_app(group="broken").worker().run()
    async with serving(app):
        await _goes_on(app, effects)


async def test_a_namespace_of_another_version_is_not_touched(
    app: Durasleep, real_server: Server, namespace: str
) -> None:
    client: Any = real_server.sync_client()
    client.hset(meta_key(namespace), "schema", "99")
    with pytest.raises(SchemaMismatch, match="schema 99"):
        await app.rpc("x", double, 1)
    with pytest.raises(SchemaMismatch, match="schema 99"):
        await app.worker().run()
    assert not issubclass(SchemaMismatch, StoreUnavailable)
