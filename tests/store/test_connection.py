"""Connections of our own, made the way a client or a URL makes its; errors that say what to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.credentials import CredentialProvider

from durasleep.errors import SchemaMismatch, StoreError, StoreRefused, StoreUnavailable, UnsupportedServer, UsageError
from durasleep.model import Kind, PromiseId, State
from durasleep.protocol import journal, promises
from durasleep.protocol.keys import meta_key
from durasleep.protocol.script import Value, to_bytes
from durasleep.settings import DEFAULTS
from durasleep.transport.connection import Link, SyncLink
from durasleep.transport.connector import AnyClient, Connector
from durasleep.transport.reply_errors import Reply
from durasleep.transport.store import Store
from durasleep.transport.sync_store import SyncStore
from harness.servers import MakeServer, Server
from tests.service.workers import eventually

EVERY_BYTE = bytes(range(256))
NOT_UTF8 = b"\xff\xfe\x00\n\t\x93"


def store_of(source: str | AnyClient, namespace: str) -> Store:
    return Store(Connector.of(source), namespace=namespace, settings=DEFAULTS, patience_s=2.0)


async def exercise(source: str | AnyClient, namespace: str) -> None:
    """Bytes go in and come out, by the async store and by the sync one."""
    sync = SyncStore(Connector.of(source), namespace=namespace, settings=DEFAULTS)
    async with store_of(source, namespace).opened() as store:
        keys = store.keyspaces[-1]
        for id, value in (("p", NOT_UTF8), ("q", EVERY_BYTE)):
            await store.call(promises.create(keys, PromiseId(id), kind=Kind.PROMISE, inbox="one"))
            settled = await store.call(promises.settle(keys, PromiseId(id), State.RESOLVED, value))
            assert (settled.by_us, settled.value) == (True, value)
        sync.open()
        record = sync.call(journal.read_record(keys, PromiseId("q")))
        assert record is not None
        assert record.value == EVERY_BYTE
        loaded = await store.load(PromiseId("p"))
        assert loaded is not None
        assert loaded.record.value == NOT_UTF8
    sync.close()


@pytest.mark.parametrize("decode_responses", [False, True])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_an_existing_client_is_taken_as_it_is_and_bytes_survive(
    server: Server, namespace: str, decode_responses: bool, protocol: int
) -> None:
    for client in (
        server.client(decode_responses=decode_responses, protocol=protocol),
        server.sync_client(decode_responses=decode_responses, protocol=protocol),
    ):
        await exercise(client, namespace)


async def test_an_applications_own_connections_are_not_used(real_server: Server, namespace: str) -> None:
    client: Any = real_server.client(max_connections=1, socket_timeout=0.5, health_check_interval=1)
    async with client.client() as taken:  # the only one its pool has
        await taken.ping()
        await exercise(client, namespace)


async def test_a_url_is_enough(real_server: Server, namespace: str) -> None:
    await exercise(f"{real_server.url}/0?health_check_interval=5&socket_timeout=1", namespace)


async def test_our_connections_can_be_told_by_name(real_server: Server, namespace: str) -> None:
    async with store_of(real_server.url, namespace).opened() as store:
        await store.load(PromiseId("nobody"))
        client: Any = real_server.client()
        names = [one["name"] for one in await client.client_list()]
        assert f"durasleep/{namespace}/client" in names


async def test_a_unix_socket_and_a_password_are_taken_from_the_client(
    real_server: Server, make_server: MakeServer, namespace: str, tmp_path: Path
) -> None:
    socket = tmp_path / "s"
    own = make_server(extra_args=("--unixsocket", str(socket)))
    async with redis.asyncio.Redis(unix_socket_path=str(socket)) as client:
        await exercise(client, namespace)
        await exercise(f"unix://{socket}", namespace)
        await client.config_set("requirepass", "secret")
    await exercise(f"unix://:secret@{socket}", namespace)
    await exercise(own.url.replace("redis://", "redis://:secret@"), namespace)
    with redis.Redis(unix_socket_path=str(socket), password="secret") as sync_client:
        await exercise(sync_client, namespace)


SECRET = "a token that expires"


class TokenConnection(redis.asyncio.Connection):
    """As applications write it, whose tokens are fetched as it connects."""

    def __init__(self, *, fetch: Callable[[], str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.password = fetch()


class SyncTokenConnection(redis.Connection):
    def __init__(self, *, fetch: Callable[[], str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.password = fetch()


class AsyncProvider(CredentialProvider):
    async def get_credentials_async(self) -> tuple[str]:
        return (SECRET,)


class SyncProvider:
    def get_credentials(self) -> tuple[str]:
        return (SECRET,)


async def greet(connection: Any) -> None:
    connection.password = SECRET
    await connection.on_connect()


def greet_sync(connection: Any) -> None:
    connection.password = SECRET
    connection.on_connect()


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("how", ["a class", "a provider", "a function"])
async def test_what_an_application_does_as_it_connects_is_done_for_our_connections_of_both_kinds(
    real_server: Server, make_server: MakeServer, namespace: str, how: str, is_async: bool
) -> None:
    if how == "a provider" and is_async and not hasattr(CredentialProvider, "get_credentials_async"):
        pytest.skip("this release of redis-py asks every provider alike")
    own, names = make_server(), redis.asyncio if is_async else redis
    with redis.Redis.from_url(own.url) as admin:
        admin.config_set("requirepass", SECRET)
    pool: Any = names.ConnectionPool
    address = {"host": "127.0.0.1", "port": own.port}
    match how:
        case "a class":
            own_class = TokenConnection if is_async else SyncTokenConnection
            pool = pool(connection_class=own_class, fetch=lambda: SECRET, **address)
        case "a provider":
            pool = pool(credential_provider=AsyncProvider() if is_async else SyncProvider(), **address)
        case _:
            pool = pool(redis_connect_func=greet if is_async else greet_sync, **address)
    client: Any = names.Redis(connection_pool=pool)
    await exercise(client, namespace)

    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("durasleep-connection")]

    link = SyncLink(Connector.of(client), "test", 0.2)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await asyncio.to_thread(link.exchange, [[b"XREAD", b"BLOCK", b"0", b"STREAMS", b"nothing", b"$"]])
    assert await asyncio.to_thread(link.exchange, [[b"PING"]]) == [b"PONG"]
    link.close()
    waiting = Link(Connector.of(client), "test", 0.2)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await waiting.exchange([[b"XREAD", b"BLOCK", b"0", b"STREAMS", b"nothing", b"$"]])
    assert await waiting.exchange([[b"PING"]]) == [b"PONG"]
    await waiting.close()
    await eventually(lambda: not threads(), "the threads to end")


async def test_valkey_urls_are_urls(real_server: Server, namespace: str) -> None:
    await exercise(real_server.url.replace("redis://", "valkey://"), namespace)
    assert Connector.of("valkeys://h:1").connection_class is redis.asyncio.SSLConnection
    assert str(Connector.of("valkey+sentinel://h:1/service").sentinels) == "service of h:1"


async def test_what_a_server_refuses_whoever_connects_so_is_final(real_server: Server, namespace: str) -> None:
    with pytest.raises(StoreRefused, match="DB index"):
        await store_of(f"{real_server.url}/999", namespace).open()


async def test_a_refused_password_is_final_and_is_not_shown(
    real_server: Server, make_server: MakeServer, namespace: str
) -> None:
    own = make_server()
    async with redis.asyncio.Redis.from_url(own.url) as client:
        await client.config_set("requirepass", "secret")
    for source in (own.url, own.url.replace("redis://", "redis://:wr0ng@")):
        with pytest.raises(StoreError, match="refuses us") as refused:
            await store_of(source, namespace).open()
        assert not isinstance(refused.value, StoreUnavailable)
        assert "wr0ng" not in str(refused.value)
        with pytest.raises(StoreError, match="refuses us"):
            SyncStore(Connector.of(source), namespace=namespace, settings=DEFAULTS).open()


class ToldLink(Link):
    """Answers from a list; notes what it was asked."""

    def __init__(self, connector: Connector, answers: list[list[Reply]]) -> None:
        super().__init__(connector, "told", 1.0)
        self.answers = answers
        self.asked: list[bytes] = []

    def of_slot(self, slot: int) -> ToldLink:
        """Any slot."""
        del slot
        return self

    async def exchange(self, commands: Sequence[Sequence[Value]], *, block_s: float = 0.0) -> list[Reply]:
        del block_s
        self.asked += [to_bytes(command[0]) for command in commands]
        return self.answers.pop(0)


@pytest.mark.parametrize(("version", "ok"), [("6.0.20", False), ("5.0.7", False), ("6.2.0", True), ("8.2.3", True)])
async def test_a_server_older_than_6_2_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, version: str, ok: bool
) -> None:
    store = store_of("redis://127.0.0.1:1", "n")
    info = f"# Server\r\nredis_version:{version}\r\nredis_mode:standalone\r\n".encode()
    link = ToldLink(store.connector, [[info], [[None] * 4], [1, 1, [b"2", b"1", None, None]]])
    monkeypatch.setattr(store, "link_to", link.of_slot)
    if ok:
        await store.open()
        assert b"HSETNX" in link.asked
    else:
        with pytest.raises(UnsupportedServer, match=rf"speaks Redis {version[:3]}; durasleep needs 6.2"):
            await store.open()
        assert link.asked == [b"INFO"]


async def test_a_namespace_of_another_version_is_refused(server: Server, namespace: str) -> None:
    client: Any = server.client()
    for fields, message in (
        ({"schema": "3", "partitions": "1"}, "has schema 3"),
        ({"schema": "2", "partitions": "257"}, "has 257 partitions"),
        ({"schema": "2", "partitions": "1", "features": "limits"}, "needs limits, which this version"),
        ({"schema": "2", "partitions": "1", "features": "moved", "moved": "that one"}, "was moved: use that one"),
        ({"schema": "2", "partitions": "1", "features": "arriving"}, "`durasleep move` is filling namespace"),
        ({"schema": "garbage", "partitions": "1"}, "schema"),
    ):
        await client.delete(meta_key(namespace))
        await client.hset(meta_key(namespace), mapping=fields)
        with pytest.raises(SchemaMismatch, match=message):
            await store_of(server.client(), namespace).open()
        assert await client.hgetall(meta_key(namespace)) == {
            name.encode(): value.encode() for name, value in fields.items()
        }
    await client.set(meta_key(namespace), "garbage")
    with pytest.raises(StoreError, match="refuses us"):
        await store_of(server.client(), namespace).open()
    await client.delete(meta_key(namespace))


async def test_nobody_there_is_said_at_once_with_the_address() -> None:
    with pytest.raises(StoreUnavailable, match=r"Redis at 127.0.0.1:1 cannot be reached"):
        await store_of("redis://:secret@127.0.0.1:1", "n").open()
    for wrong in ("localhost:6379", "http://localhost"):
        with pytest.raises(UsageError, match="is not a Redis URL"):
            Connector.of(wrong)
    with pytest.raises(UsageError, match="not int"):
        Connector.of(7)  # type: ignore[arg-type]


async def test_a_server_that_does_not_answer_is_given_up_after_the_time_allowed() -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # never a word
        writer.close()

    silent = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    connector = Connector.of(f"redis://127.0.0.1:{port}")
    link = Link(connector, "test", 0.05)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await link.exchange([[b"PING"]])
    assert not link.connected
    sync = SyncLink(connector, "test", 0.05)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await asyncio.to_thread(sync.exchange, [[b"PING"]])
    silent.close()
    await silent.wait_closed()


async def test_a_blocking_read_is_given_its_time_and_no_more(real_server: Server) -> None:
    link = Link(Connector.of(real_server.url), "test", 0.2)
    assert await link.exchange([[b"XREAD", b"BLOCK", b"300", b"STREAMS", b"nothing", b"$"]], block_s=0.3) == [None]
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await link.exchange([[b"XREAD", b"BLOCK", b"5000", b"STREAMS", b"nothing", b"$"]])
    await link.close()


async def test_an_answer_nobody_waits_for_is_never_taken_for_the_next_ones(real_server: Server) -> None:
    link = Link(Connector.of(real_server.url), "test", 5.0)
    await link.exchange([[b"PING"]])
    blocked = asyncio.ensure_future(
        link.exchange([[b"XREAD", b"BLOCK", b"100", b"STREAMS", b"nothing", b"$"]], block_s=1.0)
    )
    await asyncio.sleep(0.01)
    blocked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await blocked
    assert await link.exchange([[b"ECHO", b"mine"]]) == [b"mine"]
    await link.close()


async def test_an_error_is_the_answer_to_its_command_and_to_no_other(server: Server) -> None:
    link = Link(Connector.of(server.client()), "test", 5.0)
    first, second, third = await link.exchange([[b"ECHO", b"a"], [b"HGET", b"too few"], [b"ECHO", b"b"]])
    assert (first, third) == (b"a", b"b")
    assert isinstance(second, redis.ResponseError)
    assert link.connected
    await link.close()
