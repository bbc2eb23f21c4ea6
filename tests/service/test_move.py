"""A namespace is moved into another one, to other partitions: whatever was in it goes on there, once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from durasleep import Context, Durasleep
from durasleep.client import carrier
from durasleep.client import move as moves
from durasleep.client.carrier import Report
from durasleep.client.client import store_of
from durasleep.errors import SchemaMismatch, StoreUnavailable, UsageError
from durasleep.model import PromiseId
from durasleep.protocol import moving, promises, resonate, streams
from durasleep.protocol.command import to_text
from durasleep.protocol.keys import F, S, meta_key
from durasleep.protocol.versions import CHANNELS
from durasleep.query.moving import Name
from durasleep.settings import DEFAULTS
from durasleep.sync import Client as SyncClient
from durasleep.worker.loops.relay import Relay
from harness.cluster import Cluster
from harness.servers import MakeServer, Server
from tests import leaks
from tests.crash_points import chosen
from tests.service.functions import QUICK
from tests.service.removal import (
    Interrupted,
    Interruption,
    Population,
    Removal,
    contents,
    fails,
    keep,
    many_timers,
    put_back,
    quick,
    rest,
)
from tests.service.workers import eventually, serving, until

PARTITIONS = 16


@pytest.fixture
async def removal(real_server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Removal]:
    """A move on one server."""
    monkeypatch.setattr(moves, "GONE_S", 0.0)  # these tests know when their workers have gone
    monkeypatch.setattr(moves, "GONE_BEATS", 0)
    removal = Removal(real_server.url, real_server.url)
    yield removal
    await removal.close()
    client: Any = real_server.sync_client()
    found: list[str] = []
    for namespace in (removal.namespace, removal.new_namespace):
        keys, partitions = leaks.read(client, namespace)
        found += [f"partition {number}: {leak}" for number, part in partitions.items() for leak in leaks.leaks(part)]
        if keys:
            client.delete(*keys)
    assert found == []


async def test_a_sleeper_goes_on_in_its_partition(removal: Removal) -> None:
    old = removal.old()
    async with serving(old):
        await old.rpc("sleeper", rest, "it")
        await until(old, "sleeper", "suspended")
    report = await removal.move(PARTITIONS)
    assert (report.moved, report.left) == (1, {})
    with pytest.raises(SchemaMismatch, match=f"was moved: use namespace '{removal.new_namespace}' of"):
        await removal.old().rpc("other", rest, "it")
    new = removal.new()
    async with serving(new):
        [timer] = await new.timers()
        assert timer.id == "sleeper~2"
        await new.wake("sleeper")
        assert await new.get("sleeper").result() == "it lies down, it gets up"
        assert (await new.fsck()).findings == []


async def test_what_is_published_goes_with_it(removal: Removal) -> None:
    old = removal.old()

    async def telling(ctx: Context, word: str) -> None:
        ctx.publish(status=word)
        await ctx.promise()
        ctx.publish(more=True)

    old.workflow(telling)
    async with serving(old):
        for id in ("sleeps", "ends"):
            await old.rpc(id, telling, f"{id} now")
            await until(old, id, "suspended")
        await old.promises.resolve("ends~1")
        await old.get("ends").result(20)
        await old.rpc("watched", rest, "it")
        await until(old, "watched", "suspended")
    watches = [old.watch(id) for id in ("sleeps", "watched")]
    for watch in watches:
        await anext(watch)
    report = await removal.move(PARTITIONS)
    assert (report.moved, report.left) == (3, {})
    new = removal.new()
    new.workflow(telling)
    async with serving(new):
        assert (await new.view("sleeps")).values == {"status": "sleeps now"}
        assert (await new.view("ends")).values == {"status": "ends now", "more": True}
        assert (await new.view("watched")).values == {}
        store = await store_of(new)
        meta = await store.call(moving.read_meta(removal.new_namespace))
        assert meta.features == CHANNELS, "older versions cannot use the new namespace, either"
        await new.promises.resolve("sleeps~1")
        await new.get("sleeps").result(20)
        assert (await new.view("sleeps")).values == {"status": "sleeps now", "more": True}
        await new.cancel("watched", force=True)
        assert (await new.fsck()).findings == []


@pytest.mark.parametrize(("before", "after"), [(1, 16), (4, 8), (16, 1)])
async def test_messages_go_with_it(removal: Removal, monkeypatch: pytest.MonkeyPatch, before: int, after: int) -> None:
    async def reading(ctx: Context, channel: str, count: int) -> list[Any]:
        return [await ctx.receive(channel, timeout="90d") for _ in range(count)]

    async def sending(ctx: Context, number: int) -> list[str]:
        sent = ctx.send(f"reads-{number}", "two", f"a\tvalue {number}")
        settled = ctx.settle(f"promise-{number}", f"b\tvalue {number}")
        return [str(await sent), str(await settled)]

    old, large, numbers = removal.old(), "x" * 400_000, range(6)
    await old.init(partitions=before)
    old.workflow(reading)
    old.workflow(sending)
    await old.rpc("full", reading, "one", 4)
    await old.halt("full")
    for at, value in enumerate(("first", large, large, "last")):
        assert await old.send("full", "one", value, key=f"k{at}") == "stored"
    for number in numbers:
        await old.promises.create(f"promise-{number}")

    def take_nothing(*_: object) -> None:
        pass

    with monkeypatch.context() as patch:
        patch.setattr(Relay, "take", take_nothing)
        async with serving(old):
            for number in numbers:
                await old.rpc(f"reads-{number}", reading, "two", 2)
                await until(old, f"reads-{number}", "suspended")
                assert await old.send(f"reads-{number}", "other", number) == "stored"
                await old.rpc(f"sends-{number}", sending, number)
                await eventually(lambda number=number: _rests(old, f"sends-{number}"), "it to send")
    report = await removal.move(after)
    assert report.left == {}
    new = removal.new()
    new.workflow(reading)
    new.workflow(sending)
    assert await new.send("full", "one", "again", key="k0") == "duplicate"
    assert (await new.fsck()).findings == []
    await new.resume("full")
    async with serving(new):
        assert await new.get("full").result(30) == ["first", large, large, "last"]
        for number in numbers:
            assert await new.get(f"sends-{number}").result(30) == ["delivered", "True"]
            assert await new.get(f"promise-{number}").result(30) == f"b\tvalue {number}"
            [pending] = (await until(new, f"reads-{number}", "suspended")).waiting_on
            assert pending.due_ms is not None
            unread = (await new.describe(f"reads-{number}")).unread
            assert unread is not None
            assert unread.channels == {"other": 1}
            assert await new.send(f"reads-{number}", "two", "end") == "delivered"
            assert await new.get(f"reads-{number}").result(30) == [f"a\tvalue {number}", "end"]
        assert (await new.fsck()).findings == []


async def _rests(app: Durasleep, id: str) -> bool:
    return (await app.describe(id)).status in ("suspended", "done")


@pytest.mark.long
@pytest.mark.parametrize(("before", "after"), [(1, 16), (4, 8), (16, 1)])
async def test_everything_goes_on_where_it_was(removal: Removal, before: int, after: int) -> None:
    population = Population()
    await population.fill(removal.old(), before)
    report = await removal.move(after)
    assert report.left == {}
    new = removal.new()
    assert (await new.fsck()).findings == []
    await population.finish(new)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("before", "after"), [(1, 16), (4, 8), (16, 1)])
async def test_wherever_it_is_interrupted_it_goes_on(
    removal: Removal,
    real_server: Server,
    share: Callable[[Sequence[int]], Sequence[int]],
    monkeypatch: pytest.MonkeyPatch,
    before: int,
    after: int,
) -> None:
    population, interruption, client = Population(), Interruption(), real_server.sync_client()
    await population.fill(removal.old(), before)
    both = (removal.namespace, removal.new_namespace)
    old = keep(client, removal.namespace)
    monkeypatch.setattr(carrier, "TOGETHER_MAX", 20)
    interruption.install(monkeypatch)
    await removal.move(after)  # from now on the server knows the scripts
    put_back(client, old, *both)
    interruption.arm(None)
    undisturbed = await removal.move(after)
    points, wanted = interruption.passed, contents(client, removal.new_namespace)
    for point in share(chosen(points, times=3)):
        put_back(client, old, *both)
        interruption.arm(point)
        with pytest.raises(Interrupted):
            await removal.move(after)
        interruption.arm(None)
        report = await removal.move(after)
        assert report.left == {}, point
        assert report.moved <= undisturbed.moved, point
        assert contents(client, removal.new_namespace) == wanted, point
        assert contents(client, removal.namespace) == {}, point
    new = removal.new()
    assert (await new.fsck()).findings == []
    await population.finish(new)


@pytest.mark.long
async def test_it_goes_to_another_server(removal: Removal, make_server: MakeServer) -> None:
    other = make_server()
    removal.new_url, removal.new_namespace = other.url, removal.namespace
    population = Population()
    await population.fill(removal.old(), 1)
    report = await removal.move(PARTITIONS)
    assert report.left == {}
    await population.finish(removal.new())


@pytest.mark.long
async def test_it_goes_to_a_cluster_and_back(removal: Removal, cluster: Cluster) -> None:
    population, url = Population(), removal.url
    await population.fill(removal.old(), 1)
    removal.new_url = cluster.url
    assert (await removal.move(PARTITIONS)).left == {}
    new = removal.new()
    assert {cluster.node_of(keys.slot) for keys in (await store_of(new)).keyspaces} == set(cluster.masters())
    assert (await new.fsck()).findings == []
    removal.go_on(url)
    assert (await removal.move(1)).left == {}
    await population.finish(removal.new())


async def test_a_new_namespace_is_needed(removal: Removal) -> None:
    await removal.old().init(partitions=1)
    removal.new_namespace, name = removal.namespace, removal.new_namespace
    for partitions in (1, 16):
        with pytest.raises(UsageError, match="in use, and a move makes a new one: give it a name with --to-namespace"):
            await removal.move(partitions)
    removal.new_namespace = name
    await removal.new().init(partitions=PARTITIONS)
    with pytest.raises(UsageError, match="in use"):
        await removal.move(PARTITIONS)
    await removal.old().init()  # it can be used


async def test_nothing_is_moved_that_is_not_there(removal: Removal) -> None:
    with pytest.raises(UsageError, match=f"there is no namespace '{removal.namespace}'"):
        await removal.move(PARTITIONS)
    with pytest.raises(UsageError, match="1 to 256"):
        await removal.move(300)


async def test_living_workers_are_named(removal: Removal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "GONE_S", 1.0)
    monkeypatch.setattr(moves, "GONE_BEATS", 2)
    old = removal.old(QUICK)
    async with serving(old, "w1"), serving(old, "w2"):
        with pytest.raises(StoreUnavailable, match=r"workers still serve .*: stop w1, w2 first"):
            await removal.move(PARTITIONS)
        assert await (await old.rpc("a", quick, "a")).result() == "a was quick"
    assert (await removal.move(PARTITIONS)).moved == 1


async def test_a_worker_that_began_meanwhile_ends(removal: Removal) -> None:
    old = removal.old(QUICK)
    worker = old.worker(name="w1")
    running = asyncio.create_task(worker.run())
    await worker.ready.wait()
    await mark_moved(old)
    with pytest.raises(SchemaMismatch, match="was moved: use namespace 'x' of elsewhere"):
        await asyncio.wait_for(running, 30)


async def mark_moved(app: Durasleep) -> None:
    store = await store_of(app)
    for command in moving.mark_moved(store.namespace, "namespace 'x' of elsewhere", "a-move", ""):
        await store.call(command)


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_client_that_still_asks_is_told_where_it_went(removal: Removal, kind: str) -> None:
    """Within a minute it does not look by itself; but it looks before it says that there is nothing."""
    old = removal.old()
    await old.rpc("order", rest, "order")
    client = SyncClient(removal.url, namespace=removal.namespace)
    client.describe("order")
    await removal.move(PARTITIONS)
    for _ in range(2):
        with pytest.raises(SchemaMismatch, match="was moved: use namespace"):
            await old.cancel("order") if kind == "async" else client.cancel("order")
    client.close()


async def test_who_waits_for_a_result_is_told_where_it_went(removal: Removal) -> None:
    old = removal.old(replace(DEFAULTS, client_check_s=0.2))
    waiting = asyncio.create_task((await old.rpc("order", rest, "order")).result())
    await asyncio.sleep(0)
    await removal.move(PARTITIONS)
    with pytest.raises(SchemaMismatch, match="was moved: use namespace"):
        await asyncio.wait_for(waiting, 30)


async def test_what_clients_still_wrote_goes_with_the_next_move(removal: Removal, real_server: Server) -> None:
    old = removal.old()
    await old.rpc("first", rest, "first")
    late = removal.old()
    await late.search()  # it will not look at the namespace for a minute
    await removal.move(PARTITIONS)
    new = removal.new()
    async with serving(new):
        await until(new, "first", "suspended")
        await late.rpc("second", quick, "second")
        await late.rpc("first", rest, "first")  # the same call as before
        await late.promises.create("promise")
        await late.rpc("other", quick, "old")
        await new.rpc("other", rest, "new")
        report = await removal.move(PARTITIONS)  # while the new one is served
        assert (report.moved, report.attached) == (2, 1)
        assert report.left == {"promise:other": "the new namespace has another execution with this id"}
        assert await new.get("second").result() == "second was quick"
        await until(new, "first", "suspended")
        await new.promises.resolve("promise", 1)
        assert (await new.fsck()).findings == []
        report = await removal.move(PARTITIONS)
        assert (report.moved, len(report.left)) == (0, 1)
        await new.cancel("other", force=True)
    removal.forget_old(real_server.sync_client())


async def test_nothing_is_lost_that_clients_write_meanwhile(removal: Removal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they were told to be done is done in the new namespace."""
    monkeypatch.setattr(carrier, "TOGETHER_MAX", 5)
    late, other = removal.old(), removal.old()
    promises = [f"promise-{n}" for n in range(300)]
    for id in promises:
        await other.promises.create(id)
    await late.search()
    begun: list[str] = []
    settled: list[str] = []
    has_moved = asyncio.Event()

    async def begin() -> None:
        while not has_moved.is_set():
            id = f"late-{len(begun)}"
            await late.rpc(id, quick, id)
            begun.append(id)

    async def settle() -> None:
        for id in reversed(promises):
            with contextlib.suppress(SchemaMismatch):
                assert await other.promises.resolve(id, id)
                settled.append(id)
            await asyncio.sleep(0)

    async def move() -> None:
        await removal.move(PARTITIONS)
        has_moved.set()

    await asyncio.gather(begin(), settle(), move())
    assert 0 < len(settled) < len(promises)
    assert (await removal.move(PARTITIONS)).is_all
    new = removal.new()
    async with serving(new):
        for id in begun:
            assert await new.get(id).result() == f"{id} was quick"
        for id in promises:
            assert (await new.get(id).done()) == (id in settled), id
    assert (await new.fsck()).findings == []


async def test_ids_that_the_new_namespace_cannot_take_are_named_before(removal: Removal) -> None:
    old = removal.old()
    ids = ["{a", "b}", "}c{"]
    for id in [*ids, "{d}", "{}"]:
        await old.rpc(id, quick, id)
    with pytest.raises(UsageError, match=r"b\}, \{a, \}c\{: in a namespace with several partitions"):
        await removal.move(PARTITIONS)
    assert await old.search(status="queued") != []  # it can be used
    assert (await removal.move(1)).moved == 5
    new = removal.new()
    async with serving(new):
        for id in ids:
            assert await new.get(id).result() == f"{id} was quick"


async def test_keys_of_users_are_left_only_if_they_say_so(removal: Removal, real_server: Server) -> None:
    old, client = removal.old(), real_server.sync_client()
    await old.init()
    key = await old.key("order", "counter")
    client.set(key, 5)
    with pytest.raises(UsageError, match=r"nobody can tell to which executions keys of ctx.key belong"):
        await removal.move(PARTITIONS)
    await old.search()  # it can be used
    await removal.move(PARTITIONS, leave_own_keys=True)
    assert client.get(key) == b"5"
    client.delete(key)


async def test_promises_of_other_languages_are_left_only_if_they_say_so(removal: Removal) -> None:
    old = removal.old()
    await old.init()
    store = await store_of(old)
    data = {"id": "a", "timeoutAt": 1 << 50}
    head = {"corrId": "", "version": resonate.VERSION}
    body = json.dumps({"kind": "promise.create", "head": head, "data": data}).encode()
    await store.call(resonate.rpc(store.keyspaces[0], body))
    with pytest.raises(UsageError, match=r"r:promise:a: a move does not take promises of other languages along"):
        await removal.move(PARTITIONS)
    await old.search()  # it can be used
    assert (await removal.move(PARTITIONS, leave_others=True)).moved == 0


async def test_the_new_one_cannot_be_used_before_it_is_complete(
    removal: Removal, real_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    interruption, client = Interruption(), real_server.sync_client()
    interruption.install(monkeypatch)
    await removal.old().rpc("a", quick, "a")
    for point in range(100):
        interruption.arm(point)
        try:
            await removal.move(PARTITIONS)
        except Interrupted:
            meta = client.hgetall(meta_key(removal.new_namespace))
            if not meta:
                continue
            if b"arrived" in meta:
                break
            with pytest.raises(SchemaMismatch, match="`durasleep move` is filling namespace"):
                await removal.new().rpc("b", quick, "b")
    new = removal.new()
    async with serving(new):
        assert await new.get("a").result() == "a was quick"


async def test_it_goes_on_to_the_same_place_only(removal: Removal, monkeypatch: pytest.MonkeyPatch) -> None:
    interruption = Interruption()
    interruption.install(monkeypatch)
    await removal.old().rpc("a", quick, "a")
    interruption.arm(12)
    with pytest.raises(Interrupted):
        await removal.move(PARTITIONS)
    interruption.arm(None)
    with pytest.raises(UsageError, match="has 16 partitions: go on with that number"):
        await removal.move(8)
    name, removal.new_namespace = removal.new_namespace, f"{removal.new_namespace}-2"
    with pytest.raises(UsageError, match=rf"was moved to namespace '{name}' of .*: go on with that one"):
        await removal.move(PARTITIONS)
    removal.new_namespace = name
    assert (await removal.move(PARTITIONS)).left == {}


@pytest.mark.long
async def test_two_moves_at_a_time_lose_nothing(removal: Removal) -> None:
    population = Population()
    await population.fill(removal.old(), 1)
    reports = await asyncio.gather(*(removal.move(PARTITIONS) for _ in range(2)), return_exceptions=True)
    assert any(isinstance(report, Report) for report in reports), reports
    assert (await removal.move(PARTITIONS)).left == {}
    await population.finish(removal.new())


async def test_what_waits_for_a_worker_keeps_its_order(removal: Removal) -> None:
    old = removal.old()
    ids = [f"n-{n}" for n in range(300)]
    for id in ids:
        await old.rpc(id, quick, id)
    await removal.move(1)
    new = removal.new()
    store = await store_of(new)
    rows = await store.call(streams.list_entries(store.keyspaces[0].queue("workers").encode(), count=1000))
    assert [to_text(fields[1]) for _, fields in rows] == ids
    async with serving(new):
        assert await new.get(ids[-1]).result() == f"{ids[-1]} was quick"


async def test_what_only_another_version_can_move_is_left(removal: Removal, real_server: Server) -> None:
    """All others are moved; and the next move, of a version that knows it, moves it."""
    old, client = removal.old(), real_server.sync_client()
    ids = ["a place", "a kind", "a waiter", "corrupt", "fine"]
    for id in ids:
        await old.rpc(id, quick, id)
    keys = (await store_of(old)).keyspaces[0]
    client.hset(keys.promise("a place"), F["place"], "w")
    client.hset(keys.promise("a kind"), "1", "wp\t\t\t\t\n")
    client.hset(keys.promise("a waiter"), F["waiters"], "zsomebody\n")
    client.hset(keys.promise("corrupt"), "1", "nonsense")
    client.set(keys.promise("no promise"), "nonsense")
    report = await removal.move(PARTITIONS)
    assert report.moved == 1
    assert {name: why.partition(":")[0] for name, why in report.left.items()} == {
        "promise:a place": "only a newer version of durasleep knows the p of a place (w)",
        "promise:a kind": "only a newer version of durasleep knows the kind of journal entry a kind~1 (w)",
        "promise:a waiter": "a waiter is waited for in a way that only a newer version of durasleep knows",
        "promise:corrupt": "journal entry corrupt~1 is not one of ours",
        "promise:no promise": "{NAMESPACE".replace("NAMESPACE", removal.namespace),
    }
    new = removal.new()
    async with serving(new):
        assert await new.get("fine").result() == "fine was quick"
    removal.forget_old(client)


async def test_a_family_that_is_being_closed_is_closed_in_the_new_one(removal: Removal) -> None:
    """Also one that a client cancels while the move goes on."""
    old = removal.old()
    async with serving(old):
        for id in ("timers", "later"):
            await old.rpc(id, many_timers)
            await until(old, id, "suspended")
    await old.cancel("timers", force=True)  # more timers than one script removes

    carry = carrier.Carrier.carry
    with pytest.MonkeyPatch.context() as patch:

        async def carry_after(self: carrier.Carrier, names: Sequence[Name]) -> None:
            if any(name == "promise:later" for _, name in names):
                await old.cancel("later", force=True)
            await carry(self, names)

        patch.setattr(carrier.Carrier, "carry", carry_after)
        assert (await removal.move(PARTITIONS)).left == {}
    new = removal.new()
    async with serving(new):
        await eventually(lambda: _has_no_timers(new), "all timers to be removed")
        assert [(await new.describe(id)).state for id in ("timers", "later")] == ["canceled", "canceled"]
        assert (await new.fsck()).findings == []


async def _has_no_timers(app: Durasleep) -> bool:
    return (await app.timers()).total == 0


async def test_lists_show_the_same_as_before(removal: Removal, real_server: Server) -> None:
    old, client = removal.old(), real_server.sync_client()
    ids = [f"n-{n}" for n in range(40)]
    async with serving(old):
        for id in ids:
            await (await old.options(retention="30d").rpc(id, fails if id.endswith("0") else quick, id)).done()
        await eventually(lambda: _all_done(old, len(ids)), "all to end")
    await old.rpc("halted", quick, "halted")
    await old.halt("halted", "look")
    keys = (await store_of(old)).keyspaces[0]
    client.zadd(keys.halted, {"timers:nonsense: INVALID member": 1_000, "schedule:daily: no such zone": 2_000})
    client.hset(keys.schedule("daily"), mapping={S["due"]: "4000000000000", S["aside"]: "no such zone"})
    client.zadd(keys.timers, {"daily~cron": 4_000_000_000_000})
    before = [await _listed(old, status) for status in ("failed", "done", "halted")]
    halted_at = client.zscore(keys.halted, "halted")
    ttl_ms = client.pttl(keys.promise("n-1"))
    await removal.move(PARTITIONS)
    new = removal.new()
    assert [await _listed(new, status) for status in ("failed", "done", "halted")] == before
    there = await store_of(new)
    assert client.zscore(there.keys("halted").halted, "halted") == halted_at
    assert ttl_ms - 10_000 < client.pttl(there.keys("n-1").promise("n-1")) <= ttl_ms
    assert [(one.kind, one.id) for one in (await new.fsck()).findings] == [
        ("aside", name) for name in ("timers:nonsense: INVALID member", "schedule:daily: no such zone")
    ]
    for name in ("timers:nonsense: INVALID member", "schedule:daily: no such zone"):
        await new.discard_quarantined(name)
    await new.unschedule("daily")
    await new.cancel("halted")


async def test_what_people_have_done_goes_along(removal: Removal) -> None:
    old = removal.old()
    await old.rpc("a", quick, "a")
    for verb, id in (("halt", "a"), ("resume", "a"), ("halt", "a")):
        store = await store_of(old)
        await store.call(promises.control(store.keys(id), verb, PromiseId(id), reason="why", by="ada"))
    await old.pause_group("workers")
    before, groups = await old.audit(), await old.groups()
    await removal.move(PARTITIONS)
    new = removal.new()
    assert await new.audit() == before
    assert len(before) == 3
    found = [(one.name, one.paused_since_ms, one.paused_by) for one in await new.groups()]
    assert found == [(one.name, one.paused_since_ms, one.paused_by) for one in groups]
    await new.resume_group("workers")
    await new.cancel("a")


async def _all_done(app: Durasleep, count: int) -> bool:
    return len(await app.search(status="done")) == count


async def _listed(app: Durasleep, status: str) -> tuple[set[tuple[str, str, str | None]], set[str]]:
    found = await app.search(status=status)
    return {(one.id, one.state, one.reason) for one in found}, set(found.notes)
