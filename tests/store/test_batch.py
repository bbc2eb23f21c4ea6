"""The batcher: calls of one turn travel together, each has its own answer, and only the store repeats."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis.exceptions as redis_errors
from redis.asyncio import Redis

from durasleep.errors import NotFound, OtherFunction, StoreError, StoreRefused, StoreUnavailable
from durasleep.model import CommitAction, Disposition, Kind, Number, PromiseId, State, StepResult, Transaction
from durasleep.protocol import commit, journal, promises
from durasleep.protocol import server as questions
from durasleep.protocol.command import BatchItem, Command, Plan
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.promises import Created
from durasleep.protocol.script import Value, to_bytes
from durasleep.settings import DEFAULTS, Settings
from durasleep.transport.batcher import Batcher
from durasleep.transport.batching import split_ops
from durasleep.transport.connection import Link
from durasleep.transport.connector import Connector
from durasleep.transport.reply_errors import Reply
from durasleep.transport.store import Store
from durasleep.transport.sync_store import SyncStore
from harness.servers import FAKE, MakeServer, Server, limit
from tests.store.driver import Driver


class SpyLink(Link):
    """Notes what is sent, and answers or fails in its own way when told to."""

    def __init__(self, connector: Connector) -> None:
        super().__init__(connector, "spy", 5.0)
        self.sent: list[list[bytes]] = []
        self.asked = asyncio.Event()
        self.lose = 0
        """So many answers are lost on their way back."""
        self.answers: list[Callable[[], list[Reply]]] = []
        """Given instead of the server's."""

    async def exchange(self, commands: Sequence[Sequence[Value]], *, block_s: float = 0.0) -> list[Reply]:
        self.sent += [[to_bytes(word) for word in command] for command in commands]
        self.asked.set()
        if self.answers:
            return self.answers.pop(0)()
        replies = await super().exchange(commands, block_s=block_s)
        if self.lose:
            self.lose -= 1
            await self.close()
            raise StoreUnavailable("the answer was lost")
        return replies

    def names(self) -> list[bytes]:
        return [command[0] for command in self.sent]


@asynccontextmanager
async def batching(
    server: Server, settings: Settings = DEFAULTS, patience_s: float | None = 5.0
) -> AsyncGenerator[tuple[Batcher, SpyLink]]:
    link = SpyLink(Connector.of(server.client()))
    batcher = Batcher(link, settings, patience_s)
    yield batcher, link
    await batcher.close()


keyspace = functools.cache(Keyspace)


def create(where: str | Keyspace, id: str, function: str = "f", args: bytes = b"") -> BatchItem[Created]:
    """In this partition, or in the only one of this namespace."""
    return promises.create(
        keyspace(where) if isinstance(where, str) else where,
        PromiseId(id),
        kind=Kind.EXECUTION,
        function=function,
        queue="workers",
        args=args,
        idempotency_key=f"call-{id}",
    )


async def test_the_calls_of_one_turn_are_one_command_of_the_server(real_server: Server, namespace: str) -> None:
    async with batching(real_server) as (batcher, _):
        await batcher.call(create(namespace, "warm"))
        client: Any = real_server.client()
        await client.config_resetstat()
        await asyncio.gather(*(batcher.call(create(namespace, f"x{n}")) for n in range(DEFAULTS.batch_items_max)))
        stats = await client.info("commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 1


async def test_a_batch_is_bounded_in_items_and_bytes(server: Server, namespace: str) -> None:
    settings = replace(DEFAULTS, batch_items_max=4, batch_bytes_max=1000)
    async with batching(server, settings) as (batcher, link):
        await batcher.call(create(namespace, "warm"))
        for count, size, expected in ((4, 1, 1), (5, 1, 2), (4, 600, 4), (1, 5000, 1)):
            link.sent.clear()
            made = await asyncio.gather(
                *(batcher.call(create(namespace, f"{count}-{size}-{n}", args=b"x" * size)) for n in range(count))
            )
            assert link.names() == [b"EVALSHA"] * expected
            assert {one.disposition for one in made} == {Disposition.CREATED}


async def test_answers_come_back_to_whom_they_belong(server: Server, namespace: str) -> None:
    keys = keyspace(namespace)
    async with batching(server) as (batcher, _):
        calls: list[BatchItem[Any] | Command[Any]] = []
        for n in range(100):
            calls += [
                create(namespace, f"x{n}", args=b"%d" % n),
                promises.create(keys, PromiseId(f"p{n}"), kind=Kind.PROMISE, idempotency_key=f"p{n}"),
            ]
        await asyncio.gather(*map(batcher.call, calls))
        looks = [journal.read_record(keys, PromiseId(f"x{n}")) for n in range(100)]
        records = await asyncio.gather(*map(batcher.call, looks))
        assert [record.args for record in records if record] == [b"%d" % n for n in range(100)]
        settles = [promises.settle(keys, PromiseId(f"p{n}"), State.RESOLVED, b"%d" % n) for n in range(100)]
        assert [one.value for one in await asyncio.gather(*map(batcher.call, settles))] == [
            b"%d" % n for n in range(100)
        ]


async def test_one_bad_item_does_not_harm_its_neighbours(server: Server, namespace: str) -> None:
    async with batching(server) as (batcher, _):
        await batcher.call(create(namespace, "used", "other"))
        keys = keyspace(namespace)
        answers = await asyncio.gather(
            batcher.call(create(namespace, "a")),
            batcher.call(create(namespace, "used")),
            batcher.call(promises.attach(keys, PromiseId("nobody"))),
            batcher.call(create(namespace, "b")),
            return_exceptions=True,
        )
        assert [type(one) for one in answers] == [Created, OtherFunction, NotFound, Created]


async def test_a_repeat_after_a_lost_answer_answers_as_the_first_would_have(server: Server, driver: Driver) -> None:
    async with batching(server) as (batcher, link):
        link.lose = 2
        created = await batcher.call(create(driver.keys, "a"))
        assert created.disposition is Disposition.CREATED
        lease = await driver.take()
        link.lose = 1
        step = StepResult(Number("1"), "step", State.RESOLVED, b"r")
        answer = await batcher.call(commit.commit(driver.keys, "w1/aaaaaaaa", lease, CommitAction.CONTINUE, ops=[step]))
        assert [entry.payload for entry in answer.entries] == [b"r"]
        assert len((await driver.load("a")).entries) == 1
        await driver.create("p", kind=Kind.PROMISE)
        link.lose = 1
        assert (await batcher.call(promises.settle(driver.keys, PromiseId("p"), State.RESOLVED, b"v"))).by_us
        assert await driver.queued() == ["a"]


async def test_a_server_that_forgot_a_script_is_given_it_again(server: Server, namespace: str) -> None:
    async with batching(server) as (batcher, link):
        await batcher.call(create(namespace, "a"))
        await server.client().script_flush()
        link.sent.clear()
        made = await asyncio.gather(*(batcher.call(create(namespace, id)) for id in ("b", "c")))
        assert [one.disposition for one in made] == [Disposition.CREATED] * 2
        assert link.names() == [b"EVALSHA", b"EVAL"]
        link.sent.clear()
        await batcher.call(create(namespace, "d"))
        assert link.names() == [b"EVALSHA"]


PASSING = [
    redis_errors.BusyLoadingError("Redis is loading the dataset in memory"),
    redis_errors.ReadOnlyError("You can't write against a read only replica."),
    redis_errors.ResponseError("NOREPLICAS Not enough good replicas to write."),
    redis_errors.ResponseError("MISCONF Redis is configured to save RDB snapshots, but cannot"),
    redis_errors.ResponseError("BUSY Redis is busy running a script."),
    redis_errors.MasterDownError("Link with MASTER is down"),
    redis_errors.TryAgainError("Multiple keys request during rehashing of slot"),
    redis_errors.ResponseError(
        "Error running script (call to f_1): @user_script:7: @user_script: 7: -READONLY You can't write"
    ),
]


@pytest.mark.parametrize("error", PASSING, ids=lambda error: str(error)[:12])
async def test_what_passes_is_waited_out(one_server: Server, namespace: str, error: Exception) -> None:
    async with batching(one_server) as (batcher, link):
        link.answers = [lambda: [error], lambda: [[[b"error", b"READONLY You can't write"]]]]
        assert (await batcher.call(create(namespace, "a"))).disposition is Disposition.CREATED
        assert len(link.sent) >= 3


async def test_a_demoted_server_is_waited_for_until_it_may_be_written(
    server: Server, make_server: MakeServer, namespace: str
) -> None:
    if server.kind == FAKE:
        pytest.skip("fakeredis has no replicas")
    own = make_server()
    client: Any = Redis.from_url(own.url)
    driver = Driver(client, namespace)
    async with driver.store.opened():
        await driver.create("p", kind=Kind.PROMISE)
        await client.execute_command("REPLICAOF", "127.0.0.1", "1")
        creating = asyncio.ensure_future(driver.create("a"))
        settling = asyncio.ensure_future(driver.settle("p", value=b"v"))
        firing = asyncio.ensure_future(driver.fire())
        done, _ = await asyncio.wait([creating, settling, firing], timeout=0.2)
        assert not done
        await client.execute_command("REPLICAOF", "NO", "ONE")
        assert (await creating).disposition is Disposition.CREATED
        assert (await settling).by_us
        await firing
    await client.aclose()


async def test_patience_ends_in_store_unavailable_and_the_next_call_tries_anew(
    one_server: Server, namespace: str
) -> None:
    async with batching(one_server, patience_s=0.1) as (batcher, link):
        loading = redis_errors.BusyLoadingError("loading")
        link.answers = [lambda: [loading] for _ in range(10)]
        with pytest.raises(StoreUnavailable, match="cannot serve us now"):
            await batcher.call(create(namespace, "a"))
        link.answers = []
        link.lose = 10
        with pytest.raises(StoreUnavailable, match="was lost"):
            await batcher.call(create(namespace, "a"))
        link.lose = 0
        assert (await batcher.call(create(namespace, "a"))).disposition is Disposition.CREATED


async def test_a_fault_of_ours_reaches_who_waits_and_stops_nobody_else(one_server: Server, namespace: str) -> None:
    def broken() -> list[Reply]:
        raise RuntimeError("a fault")

    async with batching(one_server) as (batcher, link):
        link.answers = [broken, lambda: [[[b"created", b"?"]]], lambda: [redis_errors.ResponseError("WRONGTYPE x")]]
        with pytest.raises(RuntimeError, match="a fault"):
            await batcher.call(create(namespace, "a"))
        with pytest.raises(StoreError, match="cannot be read"):
            await batcher.call(create(namespace, "a"))
        with pytest.raises(StoreError, match="x"):
            await batcher.call(create(namespace, "a"))
        assert (await batcher.call(create(namespace, "a"))).disposition is Disposition.CREATED


async def test_a_caller_that_gives_up_takes_no_answer_from_others(one_server: Server, namespace: str) -> None:
    async with batching(one_server) as (batcher, _):
        calls = [asyncio.ensure_future(batcher.call(create(namespace, f"x{n}"))) for n in range(10)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(one, asyncio.CancelledError) for one in answers] == [True, False] * 5


async def test_closing_cancels_what_still_waits(one_server: Server, namespace: str) -> None:
    async with batching(one_server, patience_s=None) as (batcher, link):
        link.lose = 1000
        call = asyncio.ensure_future(batcher.call(create(namespace, "a")))
        await link.asked.wait()
        await batcher.close()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_the_sync_store_answers_like_the_async_one(server: Server, driver: Driver) -> None:
    store = SyncStore(Connector.of(server.sync_client()), namespace=driver.namespace, settings=DEFAULTS)
    store.open()
    await server.client().script_flush()
    created = store.call(create(driver.keys, "a", args=bytes(range(256))))
    assert created.disposition is Disposition.CREATED
    with pytest.raises(OtherFunction):
        store.call(create(driver.keys, "a", "g"))
    lease = await driver.take()
    await driver.commit(lease, CommitAction.CONTINUE, *(_step(n) for n in range(1, 251)))
    await driver.commit(lease, CommitAction.CONTINUE, *(_step(n) for n in range(251, 501)))
    loaded = store.load(PromiseId("a"))
    assert loaded == await driver.load("a")
    assert loaded is not None
    assert len(loaded.entries) == 500
    assert store.load(PromiseId("nobody")) is None
    store.close()


def test_the_sync_store_gives_up_when_its_patience_ends(namespace: str) -> None:
    store = SyncStore(Connector.of("redis://127.0.0.1:1"), namespace=namespace, settings=DEFAULTS, patience_s=0.1)
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        store.call(create(namespace, "a"))
    assert time.monotonic() - started < 2


async def test_a_worker_without_a_limit_of_patience_goes_on_when_the_server_is_back(
    real_server: Server, make_server: MakeServer, namespace: str
) -> None:
    own = make_server()
    store = Store(Connector.of(own.url), namespace=namespace, settings=DEFAULTS, patience_s=None)
    async with store.opened():
        await store.call(create(namespace, "a"))
        await asyncio.to_thread(own.kill)
        call = asyncio.ensure_future(store.call(create(namespace, "b")))
        done, _ = await asyncio.wait([call], timeout=0.1)
        assert not done
        await asyncio.to_thread(own.start)
        assert (await call).disposition is Disposition.CREATED
        assert (await store.load(PromiseId("a"))) is not None


def _step(number: int) -> StepResult:
    return StepResult(Number(str(number)), "step", State.RESOLVED, b"x" * 20)


def test_a_commit_is_split_by_what_its_steps_and_transactions_carry() -> None:
    tight = replace(DEFAULTS, batch_bytes_max=1000)
    step = StepResult(Number("1"), "step", State.RESOLVED, b"x" * 600)
    transaction = Transaction(Number("2"), ((b"SET", b"k", b"x" * 300), (b"SET", b"k", b"x" * 300)))
    small = Transaction(Number("3"), ((b"INCR", b"k"),))
    assert split_ops([step, transaction, small, transaction], tight) == [[step], [transaction, small], [transaction]]
    assert split_ops([], tight) == [[]]


@pytest.mark.parametrize("patience_s", [5.0, None])
async def test_what_is_more_than_a_connection_may_carry_is_asked_for_in_parts(
    real_server: Server, make_server: MakeServer, namespace: str, patience_s: float | None
) -> None:
    """The server closes a connection whose answers fill its buffer: the same question would end every one."""
    own = make_server()
    keys, ids = keyspace(namespace), [f"x{n}" for n in range(96)]
    store = Store(Connector.of(own.url), namespace=namespace, settings=DEFAULTS, patience_s=patience_s)
    sync = SyncStore(Connector.of(own.url), namespace=namespace, settings=DEFAULTS, patience_s=5.0)
    large = os.urandom(60_000)
    async with store.opened(), Redis.from_url(own.url) as admin:
        await store.ask([create(namespace, id, args=large) for id in ids])
        await store.call(create(namespace, "huge", args=os.urandom(1_900_000)))
        await admin.config_set("client-output-buffer-limit", "normal 1mb 0 0")
        looks = [journal.read_record(keys, PromiseId(id)) for id in ids]
        assert [record.args for record in await store.ask(looks)] == [large] * len(ids)
        alone = [asyncio.ensure_future(store.load(PromiseId(id))) for id in ("huge", *ids)]
        with pytest.raises(StoreError, match="client-output-buffer-limit"):
            await alone[0]
        for one in await asyncio.gather(*alone[1:]):
            assert one is not None
            assert one.record.args == large

        def plan() -> Plan[list[Any]]:
            return (yield looks)

        assert [record.args for record in await asyncio.to_thread(sync.run, plan())] == [large] * len(ids)
    sync.close()


async def test_a_portion_that_was_too_large_grows_again(one_server: Server, namespace: str) -> None:
    async with batching(one_server) as (batcher, link):
        calls = [create(namespace, f"x{n}") for n in range(96)]
        link.lose = 2
        await batcher.ask(calls)
        for _ in range(20):
            link.sent.clear()
            await batcher.ask(calls)
        assert link.names() == [b"EVALSHA"] * 2  # of 48 each, as ever


async def test_patience_begins_anew_where_some_of_many_were_answered(
    one_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many calls take longer than the patience with one of them, and lose an answer at the start and at the end."""
    async with batching(one_server, patience_s=0.5) as (batcher, link):
        calls = [create(namespace, f"x{n}") for n in range(96 * 4)]
        exchange, exchanges = link.exchange, 0

        async def slowly(commands: Sequence[Sequence[Value]], *, block_s: float = 0.0) -> list[Reply]:
            nonlocal exchanges
            exchanges += 1
            link.lose = int(exchanges in (1, 7))
            await asyncio.sleep(0.15)
            return await exchange(commands, block_s=block_s)

        monkeypatch.setattr(link, "exchange", slowly)
        assert len(await batcher.ask(calls)) == len(calls)
        assert exchanges > 7


async def test_a_worker_does_not_wait_for_a_right_it_can_do_without(make_server: MakeServer) -> None:
    """For any other right it waits until somebody gives it."""
    one = make_server()
    batcher = Batcher(Link(Connector.of(limit(one.url, "n", "-client|list")), "test", 5.0), DEFAULTS, None)
    for _ in range(2):
        with pytest.raises(StoreRefused, match="client"):
            await batcher.call(questions.has_client("1").optional())
    waiting = batcher.send(questions.has_client("1"))
    assert await batcher.call(questions.ping()) == b"PONG"
    assert not waiting.done()
    limit(one.url, "n")
    assert await waiting is False
    await batcher.close()
