"""Garbage in Redis, written by somebody else: put aside and named, and the rest goes on."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from durasleep import Durasleep, StoreUnavailable
from durasleep.errors import CorruptData, SchemaMismatch
from durasleep.store.keys import F, meta_key
from tests.servers import Server
from tests.service.fixtures import NewApp
from tests.service.functions import double, nap
from tests.service.workers import Effects, eventually, load_from_hash, serving, until

pytestmark = pytest.mark.leaves_keys("garbage has no owner")


def _halted(client: Any, app_keys: Any) -> str:
    return b"\n".join(client.zrange(app_keys.halted, 0, -1)).decode(errors="replace")


async def _goes_on(app: Durasleep, effects: Effects, id: str = "healthy") -> None:
    assert await (await app.rpc(id, nap, effects.path, 0.05)).result(timeout=30) == f"{id} slept for 0.05 seconds"


async def test_garbage_in_a_stream_is_put_aside(
    app: Durasleep, real_server: Server, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    client: Any = real_server.sync_client()
    keys = (await app.opened()).keys()
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
    assert caplog.text.count("put aside") == 3


async def test_a_broken_hash_is_halted_or_refused_by_name(
    app: Durasleep, real_server: Server, effects: Effects
) -> None:
    client: Any = real_server.sync_client()
    keys = (await app.opened()).keys()
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
            await eventually(lambda name=name: name in _halted(client, keys), f"{name} to be put aside")
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


async def test_garbage_among_the_timers_is_put_aside(app: Durasleep, real_server: Server, effects: Effects) -> None:
    client: Any = real_server.sync_client()
    keys = (await app.opened()).keys()
    client.zadd(keys.timers, {b"no tilde": 1, b"\xff~what": 2, b"gone~1": 3, b"gone~timeout": 4, b"far~never": 9e15})
    client.set(keys.promise("odd"), "a string")
    client.zadd(keys.timers, {b"odd~1": 5})
    async with serving(app):
        await _goes_on(app, effects)
        await eventually(lambda: client.zcount(keys.timers, 0, 10) == 0, "due garbage to be gone")
    aside = _halted(client, keys)
    assert all(f"timers:{name}" in aside for name in ("no tilde", "odd~1"))
    assert "~what" in aside


async def test_keys_of_another_type_are_named_and_others_are_served(
    app: Durasleep, new_app: NewApp, real_server: Server, effects: Effects
) -> None:
    client: Any = real_server.sync_client()
    keys = (await app.opened()).keys()
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
