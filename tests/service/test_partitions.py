"""A namespace with several partitions on one server: calls within one, and from one to another."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from durasleep import Context, Durasleep
from durasleep.client.client import store_of
from durasleep.errors import DurasleepError, InvalidId, SchemaMismatch, UsageError
from durasleep.protocol import schedules, sorted_sets
from harness.servers import Server
from tests.service.workers import eventually, serving

PARTITIONS = 4


@pytest.fixture
async def wide(app: Durasleep) -> Durasleep:
    """An application whose namespace has several partitions."""
    await app.init(partitions=PARTITIONS)
    return app


async def rest(ctx: Context, seconds: float) -> str:
    await ctx.sleep(seconds)
    return f"slept for {seconds}"


async def elsewhere(app: Durasleep, *ids: str) -> list[int]:
    """The partitions of some ids."""
    store = await store_of(app)
    return [store.keys(id).partition for id in ids]


async def an_id_elsewhere(app: Durasleep, id: str, name: str = "there") -> str:
    """One that belongs to another partition."""
    store = await store_of(app)
    return next(f"{name}-{n}" for n in range(100) if store.keys(f"{name}-{n}") is not store.keys(id))


async def test_its_number_is_chosen_once(app: Durasleep) -> None:
    await app.init(partitions=PARTITIONS)
    await app.init(partitions=PARTITIONS)
    with pytest.raises(UsageError, match=f"has {PARTITIONS} partitions already"):
        await app.init(partitions=PARTITIONS + 1)


async def test_who_only_looks_does_not_choose_its_number(app: Durasleep) -> None:
    """A first use makes it with one partition. As long as nothing is in it, another number may be chosen, once."""
    assert [one.number for one in await app.partitions()] == [0]
    assert await app.search() == []
    await app.init(partitions=PARTITIONS)
    assert len(await app.partitions()) == PARTITIONS
    with pytest.raises(UsageError, match=f"has {PARTITIONS} partitions already"):
        await app.init(partitions=1)


async def test_what_is_in_use_keeps_its_only_partition(app: Durasleep) -> None:
    promise = await app.promises.create("p")
    with pytest.raises(UsageError, match="has 1 partition already: `durasleep move`"):
        await app.init(partitions=PARTITIONS)
    await promise.cancel()


@pytest.mark.parametrize("partitions", [0, 257, "4", None])
async def test_a_number_that_none_can_have_is_refused(app: Durasleep, partitions: Any) -> None:
    with pytest.raises(UsageError, match="has 1 to 256 partitions"):
        await app.init(partitions=partitions)


async def test_a_key_beside_an_execution_has_a_name(app: Durasleep) -> None:
    with pytest.raises(UsageError, match="a key has a name"):
        await app.key("a", "")


async def test_work_in_partitions_that_no_worker_serves_is_told(wide: Durasleep) -> None:
    store = await store_of(wide)
    ids = {f"n-{n}": store.keys(f"n-{n}").partition for n in range(20)}
    wide.workflow(rest)
    async with serving(wide, "w1", partitions={0, 1}):
        await wide.rpc_many(rest, [(id, 0) for id in ids])
        waiting = sum(partition > 1 for partition in ids.values())

        unserved = f"{waiting} executions wait in partitions 2, 3 for group 'workers': no worker of it serves them"

        async def told() -> bool:
            return unserved in [one.text for one in await wide.diagnose()]

        await eventually(told, "the doctor to tell of it")
        async with serving(wide, "w2"):
            assert len(await wide.gather([wide.get(id) for id in ids])) == 20
        assert not await told()


async def test_many_sleep_and_are_found_in_all_of_them(wide: Durasleep) -> None:
    wide.workflow(rest)
    ids = [f"n-{n}" for n in range(40)]
    assert set(await elsewhere(wide, *ids)) == set(range(PARTITIONS))
    async with serving(wide, "w1"), serving(wide, "w2"):
        handles = await wide.rpc_many(rest, [(id, 0.2) for id in ids])
        later = await wide.rpc("later", rest, 3600)
        assert await wide.gather(handles) == ["slept for 0.2"] * 40
        await eventually(lambda: _is(wide, "later", "suspended"), "the last one to sleep")
        assert [one.id for one in await wide.timers()] == ["later~1"]
        assert [one.id for one in await wide.search()] == ["later"]
        assert {one.id for one in await wide.search(status="done")} == {*ids}
        assert await wide.workers() == ["w1", "w2"]
        await wide.wake("later")
        assert await later == "slept for 3600.0"
        assert (await wide.fsck()).is_clean


async def _is(app: Durasleep, id: str, status: str) -> bool:
    return (await app.describe(id)).status == status


async def test_neighbours_share_what_stands_in_braces(wide: Durasleep) -> None:
    assert len(set(await elsewhere(wide, "{customer-7}:a", "{customer-7}:b", "{customer-7}:c"))) == 1
    with pytest.raises(InvalidId, match="its own"):
        await wide.rpc("{customer-7:a", "rest", 1)


async def test_a_child_in_another_partition_is_awaited_like_any_other(wide: Durasleep) -> None:
    there = await an_id_elsewhere(wide, "caller")

    async def caller(ctx: Context) -> list[Any]:
        found: list[Any] = [await ctx.rpc(rest, 0.05, id=there)]
        found.append(await ctx.rpc(rest, 0.05, id=there))  # it has ended
        return found

    wide.workflow(rest)
    wide.workflow(caller)
    async with serving(wide, "w1"), serving(wide, "w2"):
        assert await (await wide.rpc("caller", caller)) == ["slept for 0.05"] * 2
        assert {(one.id, one.state) for one in await wide.search(status="done")} == {
            ("caller", "resolved"),
            (there, "resolved"),
        }
        await eventually(lambda: _nothing_left(wide), "all to be told")


async def _nothing_left(app: Durasleep) -> bool:
    store = await store_of(app)
    left = await store.ask([sorted_sets.count_members(keys.timers) for keys in store.keyspaces])
    return not any(left) and (await app.fsck()).is_clean


async def test_what_goes_wrong_in_another_partition_is_raised_here(wide: Durasleep) -> None:
    ids = [await an_id_elsewhere(wide, "caller", name) for name in ("fails", "late", "other")]

    async def fails(ctx: Context) -> None:
        raise ValueError("no")

    async def caller(ctx: Context) -> list[str]:
        said: list[str] = []
        for call in (
            ctx.rpc(fails, id=ids[0]),
            ctx.options(timeout=0.1, id=ids[1]).rpc(rest, 3600),
            ctx.rpc(rest, 1, id=ids[2]),
        ):
            try:
                await call
            except (ValueError, DurasleepError) as error:
                said.append(type(error).__name__)
        return said

    for fn in (rest, fails, caller):
        wide.workflow(fn)
    async with serving(wide):
        await wide.rpc(ids[2], fails)
        assert await (await wide.rpc("caller", caller)) == ["ValueError", "TimedOut", "OtherFunction"]


async def test_what_is_detached_goes_on_in_another_partition(wide: Durasleep) -> None:
    there = await an_id_elsewhere(wide, "caller")

    async def caller(ctx: Context) -> str:
        return await ctx.detached(rest, 0.1, id=there)

    wide.workflow(rest)
    wide.workflow(caller)
    async with serving(wide):
        assert await (await wide.rpc("caller", caller)) == there
        assert await wide.get(there).result() == "slept for 0.1"


async def test_who_gives_up_leaves_nothing_behind(wide: Durasleep) -> None:
    there = await an_id_elsewhere(wide, "caller")

    async def caller(ctx: Context) -> str:
        try:
            async with asyncio.timeout(0.1):
                await ctx.rpc(rest, 0.5, id=there)
        except TimeoutError:
            return "gave up"
        return "heard"

    wide.workflow(rest)
    wide.workflow(caller)
    async with serving(wide):
        assert await (await wide.rpc("caller", caller)) == "gave up"
        assert await wide.get(there).result() == "slept for 0.5"
        await eventually(lambda: _nothing_left(wide), "all to be told")


async def test_no_worker_need_be_alive_while_it_is_asked(wide: Durasleep) -> None:
    there = await an_id_elsewhere(wide, "caller")

    async def caller(ctx: Context) -> str:
        return await ctx.rpc(rest, 0.1, id=there)

    wide.workflow(rest)
    wide.workflow(caller)
    handle = await wide.rpc("caller", caller)
    for _ in range(4):
        async with serving(wide, "w1") as worker:
            await asyncio.sleep(0)
            worker.crash()
    async with serving(wide, "w2"):
        assert await handle == "slept for 0.1"


async def test_a_large_value_comes_from_another_partition(wide: Durasleep) -> None:
    there = await an_id_elsewhere(wide, "caller")

    async def large(ctx: Context, text: str) -> str:
        await ctx.sleep(0.05)
        return text

    async def caller(ctx: Context) -> int:
        return len(await ctx.rpc(large, "x" * 200_000, id=there))

    wide.workflow(large)
    wide.workflow(caller)
    async with serving(wide):
        assert await (await wide.rpc("caller", caller)) == 200_000


async def test_a_schedule_starts_what_belongs_to_another_partition(wide: Durasleep) -> None:
    wide.workflow(rest)
    names = [f"s{n}" for n in range(8)]
    for name in names:
        await wide.schedule(name, "* * * * *", rest, 0)
    store = await store_of(wide)
    for name in names:  # due a minute ago
        schedule = await store.call(schedules.read_schedule(store.keys(name), name))
        assert schedule
        due_ms = schedule.due_ms - 60_000
        await store.call(schedules.remove_schedule(store.keys(name), name))
        await store.call(schedules.put_schedule(store.keys(name), replace(schedule, due_ms=due_ms)))

    async def started() -> list[str] | None:
        ids = [one.id for one in await wide.search(status="done")]
        return ids if len(ids) >= len(names) else None

    async with serving(wide, "w1"), serving(wide, "w2"):
        ids = await eventually(started, "all to be started")
    assert sorted(id.partition("@")[0] for id in ids) == names
    assert await elsewhere(wide, *ids) != await elsewhere(wide, *[id.partition("@")[0] for id in ids])


async def test_a_transaction_uses_keys_beside_its_execution(wide: Durasleep, real_server: Server) -> None:
    async def counts(ctx: Context) -> list[int]:
        return [*await ctx.transaction().incr(ctx.key("counter")).incrby(ctx.key("counter"), 2)]

    async def strays(ctx: Context) -> None:
        await ctx.transaction().incr("counter")

    wide.workflow(counts)
    wide.workflow(strays)
    async with serving(wide):
        assert await (await wide.rpc("counts", counts)) == [1, 3]
        await wide.rpc("strays", strays)
        await eventually(lambda: _is(wide, "strays", "halted"), "it to be halted")
        reason = (await wide.describe("strays")).reason or ""
        assert "the key counter of a transaction may be on another node than strays: name it by ctx.key" in reason
        await wide.cancel("strays")
    client: Any = real_server.client()
    assert await client.get(await wide.key("counts", "counter")) == b"3"
    assert (await wide.fsck()).is_clean
    await client.delete(await wide.key("counts", "counter"))


async def test_a_version_that_knows_another_number_is_refused(wide: Durasleep, real_server: Server) -> None:
    client: Any = real_server.client()
    await client.hset(f"{{{wide.namespace}}}:meta", "partitions", 300)
    other = Durasleep(real_server.url, namespace=wide.namespace)
    with pytest.raises(SchemaMismatch, match="300 partitions"):
        await other.rpc("a", "rest", 1)
    await other.aclose()
    await client.hset(f"{{{wide.namespace}}}:meta", "partitions", PARTITIONS)
