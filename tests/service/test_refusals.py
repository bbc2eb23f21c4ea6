"""Redis is full, busy, or forbids what we ask: workers wait and say so, and go on where they were."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from durasleep import Context, Durasleep, Retry, StoreRefused, StoreUnavailable
from durasleep.client.client import store_of
from durasleep.devserver import DevServer
from durasleep.errors import StoreFull
from durasleep.model import CommitAction, Number, Op, PromiseId, StartChild, StartTimer, State, StepResult, Transaction
from harness.proxy import Proxy
from tests.service.fixtures import NewApp
from tests.service.functions import double, nap, note, passage, stand_at
from tests.service.workers import Effects, batcher_of, eventually, serving, until
from tests.store.driver import FAR, Driver, child

pytestmark = pytest.mark.long

SLEEPERS = 10
GENERATIONS = 60
FULL_BYTES = 3_000_000


async def through_trouble(
    app: Durasleep,
    effects: Effects,
    begin: Callable[[], Awaitable[Any]],
    said: Callable[[], bool],
    end: Callable[[], Awaitable[Any]],
) -> None:
    """Sleepers fall due and steps end while there is trouble; afterwards all of them finish, each effect once."""
    async with serving(app):
        sleepers = [await app.rpc(f"s-{n}", nap, effects.path, 1) for n in range(SLEEPERS)]
        steps = [await app.rpc(f"p-{n}", passage, effects.path) for n in range(SLEEPERS)]
        await effects.standing("gate", times=SLEEPERS)
        for sleeper in sleepers:
            await until(app, sleeper.id, "suspended")
        await begin()
        effects.open("gate")
        await eventually(said, "the worker to say why it waits")
        await end()
        await asyncio.gather(*sleepers, *steps)
    for n in range(SLEEPERS):
        assert effects.count(f"s-{n} gets up") == 1
        assert effects.count(f"p-{n} goes") == 1
    assert effects.count("gate") == SLEEPERS


async def test_a_full_redis_takes_nothing_new_and_lets_what_it_has_finish(
    new_app: NewApp, own_server: DevServer, admin: Any, effects: Effects, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app(own_server.url)
    async with serving(app):
        sleepers = [await app.rpc(f"s-{n}", nap, effects.path, 1) for n in range(SLEEPERS)]
        steps = [await app.rpc(f"p-{n}", passage, effects.path) for n in range(SLEEPERS)]
        await effects.standing("gate", times=SLEEPERS)
        await admin.config_set("maxmemory", 1)
        effects.open("gate")
        await asyncio.gather(*(app.get(handle.id).result() for handle in (*sleepers, *steps)))
        monkeypatch.setattr(await batcher_of(app), "_patience_s", 0.2)
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await app.rpc("one-more", double, 1)
        await admin.config_set("maxmemory", 0)
        assert await (await app.rpc("one-more", double, 1)) == 2
    assert all(effects.count(f"s-{n} gets up") == 1 == effects.count(f"p-{n} goes") for n in range(SLEEPERS))


async def test_a_full_redis_starts_no_others_and_lets_the_rest_finish(
    new_app: NewApp, own_server: DevServer, admin: Any, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever asks for more waits, holds no place of what can finish, and goes on when there is room."""
    app = new_app(own_server.url)

    async def breeding(ctx: Context, generation: int, _: str) -> int:
        if generation == GENERATIONS:
            return generation
        child_id = f"{ctx.info.root_id.partition('-')[0]}-{generation + 1}"
        await ctx.detached("breeding", generation + 1, "x" * 20_000, id=child_id)
        return generation

    async def asking(ctx: Context, text: str) -> int:
        return await ctx.rpc("double", len(await ctx.run(str, text)))

    async def adding(ctx: Context, key: str) -> list[Any]:
        return await ctx.transaction().rpush(key, "x" * 1000)

    for workflow in (breeding, asking, adding):
        app.workflow(workflow)
    kept = await bytes_kept(admin)
    await admin.config_set("maxmemory", (await admin.info("memory"))["used_memory"] + FULL_BYTES)
    async with serving(app, concurrency=5):
        sleepers = [await app.rpc(f"s-{n}", nap, effects.path, 3) for n in range(SLEEPERS)]
        families = [await app.rpc(f"{letter}-0", breeding, 0, "") for letter in "abcdefgh"]
        await eventually(lambda: "this worker waits" in caplog.text, "the worker to say why it waits")
        await asyncio.gather(*(app.get(handle.id).result(timeout=25) for handle in sleepers))
        assert await bytes_kept(admin) < kept + 2 * FULL_BYTES
        await admin.config_set("maxmemory", 0)
        others = [await app.rpc("asking", asking, "four"), await app.rpc("adding", adding, "t-list")]
        for family in families:
            last_id = f"{family.id[0]}-{GENERATIONS}"
            await eventually(partial(admin.exists, app_key(app, last_id)), f"{last_id} to begin")
            assert await app.get(last_id).result(timeout=25) == GENERATIONS
        assert await others[0] == 8
        assert await others[1] == [1]
    assert caplog.text.count("this worker waits") == 1
    assert all(effects.count(f"s-{n} gets up") == 1 for n in range(SLEEPERS))


async def bytes_kept(admin: Any) -> int:
    """What the keys take. The server's own sum has what connections have sent but are not yet answered, too."""
    return sum([await admin.memory_usage(key, samples=0) or 0 async for key in admin.scan_iter(count=1000)])


def app_key(app: Durasleep, id: str) -> str:
    return f"{{{app.namespace}:0}}:promise:{id}"


async def test_values_that_a_full_redis_does_not_take_are_said_again_and_nothing_runs_twice(
    new_app: NewApp, own_server: DevServer, admin: Any, effects: Effects
) -> None:
    """Results, errors of attempts and of steps, and many small ones: each waits in the worker that has it."""
    app = new_app(own_server.url)

    async def large(name: str) -> str:
        await stand_at(effects.path, "gate")
        note(effects.path, f"{name} runs")
        return "x" * 1_000_000

    async def raising(name: str) -> None:
        await stand_at(effects.path, "gate")
        note(effects.path, f"{name} runs")
        raise ValueError("x" * 1_000_000)

    async def catching(ctx: Context, name: str) -> str:
        try:
            await ctx.run(raising, name)
        except ValueError as error:
            return f"caught {len(str(error))}"
        return "not raised"

    async def adding(ctx: Context, _: str) -> int:
        await ctx.run(stand_at, effects.path, "gate")
        for _n in range(200):
            await ctx.run(str, "x" * 2000)
        return 200

    async def sleeping_often(ctx: Context, _: str) -> None:
        await ctx.run(stand_at, effects.path, "gate")
        await asyncio.gather(*[ctx.sleep(0.001) for _ in range(2000)])

    for workflow in (catching, adding, sleeping_often):
        app.workflow(workflow)
    app.task(large)
    app.task(retry=Retry(attempts=2, delay=0.01))(raising)
    each = 8
    async with serving(app, concurrency=100):
        handles = {
            fn.__name__: [await app.rpc(f"{fn.__name__}-{n}", fn.__name__, f"{fn.__name__}-{n}") for n in range(each)]
            for fn in (large, raising, catching, adding, sleeping_often)
        }
        promise = await app.promises.create("large-promise")
        await effects.standing("gate", times=5 * each)
        kept = await bytes_kept(admin)
        await admin.config_set("maxmemory", (await admin.info("memory"))["used_memory"])
        effects.open("gate")
        await eventually(lambda: effects.count("large-") == each, "all of them to run")
        with pytest.raises(StoreFull, match="large-promise"):
            await app.promises.resolve("large-promise", "x" * 1_000_000)
        for _ in range(15):
            assert await bytes_kept(admin) < kept + 500_000  # none of the large values
            await asyncio.sleep(0.2)
        await admin.config_set("maxmemory", 0)
        for handle in handles["large"]:
            assert len(await handle.result(timeout=25)) == 1_000_000
        for handle in handles["raising"]:
            with pytest.raises(ValueError, match="xxx"):
                await handle.result(timeout=25)
        assert await handles["catching"][0].result(timeout=25) == "caught 1000000"
        assert await handles["adding"][0].result(timeout=25) == 200
        await asyncio.gather(*(handle.result(timeout=60) for handle in handles["sleeping_often"]))
        await app.promises.resolve("large-promise", "x" * 1_000_000)
        assert len(await promise.result()) == 1_000_000
    for n in range(each):
        assert effects.count(f"large-{n} runs") == 1
        assert effects.count(f"raising-{n} runs") == 2 == effects.count(f"catching-{n} runs")  # as often as it is tried


@pytest.mark.parametrize(
    "what",
    [
        "a child",
        "a detached one",
        "a transaction",
        "a large result",
        "a large error",
        "many timers",
        "a large end",
        "more and more",
        "a small one",
        "its end",
    ],
)
async def test_what_a_full_redis_takes(own_server: DevServer, admin: Any, namespace: str, what: str) -> None:
    number = Number("1")
    ops: dict[str, tuple[CommitAction, tuple[Op, ...]]] = {
        "a child": (CommitAction.SUSPEND, (child("1"),)),
        "a detached one": (CommitAction.CONTINUE, (StartChild(number, "g", b"", None, None, PromiseId("own"), True),)),
        "a transaction": (CommitAction.CONTINUE, (Transaction(number, ((b"RPUSH", b"t-list", b"x"),)),)),
        "a large result": (CommitAction.CONTINUE, (StepResult(number, "step", State.RESOLVED, b"x" * 50_000),)),
        "a large error": (CommitAction.CONTINUE, (StepResult(number, "step", State.REJECTED, b"x" * 50_000),)),
        "many timers": (CommitAction.SUSPEND, tuple([StartTimer(Number(str(n)), "", FAR) for n in range(1, 500)])),
        "a large end": (CommitAction.RESOLVE, ()),
        "more and more": (CommitAction.CONTINUE, (StepResult(number, "step", State.RESOLVED, b"x" * 2000),)),
        "a small one": (
            CommitAction.SUSPEND,
            (StepResult(number, "step", State.RESOLVED, b"x"), StartTimer(number, "", FAR)),
        ),
        "its end": (CommitAction.RESOLVE, ()),
    }
    payload = b"x" * {"a large end": 100_000, "its end": 10_000}.get(what, 0)
    client = Redis.from_url(own_server.url)
    driver = Driver(client, namespace)
    async with driver.store.opened():
        await driver.suspended("other", StartTimer(number, "", FAR))
        lease = await driver.start("a")
        await admin.config_set("maxmemory", 1)
        outcome, asked = ops[what]
        if what == "more and more":
            for n in range(2, 9):
                step = StepResult(Number(str(n)), "step", State.RESOLVED, b"x" * 2000)
                await driver.commit(lease, CommitAction.CONTINUE, step)
        if what in ("a small one", "its end"):
            await driver.commit(lease, outcome, *asked, payload=payload)
        else:
            before = await driver.snapshot()
            with pytest.raises(StoreFull, match="maxmemory"):
                await driver.commit(lease, outcome, *asked, payload=payload)
            assert await driver.snapshot() == before
            await driver.commit(lease, CommitAction.DEFER, due="+1000", payload=b"later")
        await admin.config_set("maxmemory", 0)
    await client.aclose()


async def test_rights_that_were_taken_away_stop_a_worker_until_they_are_given_back(
    new_app: NewApp, own_server: DevServer, admin: Any, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app(own_server.url)

    async def end() -> None:
        with pytest.raises(StoreRefused):
            await app.rpc("one-more", double, 1)
        await admin.execute_command("ACL", "SETUSER", "default", "+@all")

    await through_trouble(
        app,
        effects,
        begin=lambda: admin.execute_command("ACL", "SETUSER", "default", "-hset", "-hmget", "-evalsha"),
        said=lambda: "refuses us" in caplog.text and "this worker waits" in caplog.text,
        end=end,
    )


async def test_commands_that_a_script_may_not_run_stop_a_worker_and_halt_nothing(
    new_app: NewApp, own_server: DevServer, admin: Any, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    await through_trouble(
        new_app(own_server.url),
        effects,
        begin=lambda: admin.execute_command("ACL", "SETUSER", "default", "-hset"),
        said=lambda: "refuses us" in caplog.text and "this worker waits" in caplog.text,
        end=lambda: admin.execute_command("ACL", "SETUSER", "default", "+@all"),
    )


async def test_a_redis_that_is_busy_with_a_script_is_waited_for(
    new_app: NewApp, own_server: DevServer, admin: Any, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    await admin.config_set("lua-time-limit", 50)
    looping: list[asyncio.Task[Any]] = []
    culprit: Any = Redis.from_url(own_server.url, username="admin", password="")

    async def begin() -> None:
        looping.append(asyncio.ensure_future(culprit.eval("while true do end", 0)))

    async def end() -> None:
        await admin.script_kill()
        await asyncio.gather(*looping, return_exceptions=True)
        await culprit.aclose()

    await through_trouble(
        new_app(own_server.url),
        effects,
        begin=begin,
        said=lambda: "BUSY" in caplog.text and "this worker waits" in caplog.text,
        end=end,
    )


# -- at the start


async def test_a_worker_that_starts_on_a_full_redis_finishes_what_is_there(
    new_app: NewApp, own_server: DevServer, admin: Any, effects: Effects
) -> None:
    """As after a deploy: the workers that filled it have left, and the new ones have other names."""
    app = new_app(own_server.url)
    async with serving(app, "old"):
        sleepers = [await app.rpc(f"s-{n}", nap, effects.path, 1) for n in range(SLEEPERS)]
        for sleeper in sleepers:
            await until(app, sleeper.id, "suspended")
    steps = [await app.rpc(f"p-{n}", passage, effects.path) for n in range(SLEEPERS)]
    await admin.config_set("maxmemory", 1)
    async with serving(app, "new"):
        effects.open("gate")
        for handle in (*sleepers, *steps):
            await until(app, handle.id, "done")
    assert all(effects.count(f"s-{n} gets up") == 1 == effects.count(f"p-{n} goes") for n in range(SLEEPERS))


async def _fill(admin: Any) -> None:
    await admin.config_set("maxmemory", 1)


async def _empty(admin: Any) -> None:
    await admin.config_set("maxmemory", 0)


async def _demote(admin: Any) -> None:
    await admin.execute_command("REPLICAOF", "127.0.0.1", "1")


async def _promote(admin: Any) -> None:
    await admin.execute_command("REPLICAOF", "NO", "ONE")


async def _make_busy(admin: Any) -> None:
    await admin.config_set("lua-time-limit", 50)
    port = admin.connection_pool.connection_kwargs["port"]
    culprit: Any = Redis(port=port, username="admin", password="")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(culprit.eval("while true do end", 0), 0.2)
    await culprit.aclose()


async def _end_script(admin: Any) -> None:
    await admin.script_kill()


@pytest.mark.parametrize(
    ("is_known", "begin", "end", "said"),
    [
        (False, _fill, _empty, "maxmemory"),
        (False, _demote, _promote, "read only replica"),
        (True, _demote, _promote, "read only replica"),
        (False, _make_busy, _end_script, "BUSY"),
        (True, _make_busy, _end_script, "BUSY"),
    ],
    ids=["full", "a replica that knows nothing", "a replica", "busy and new", "busy"],
)
async def test_a_worker_waits_at_the_start_for_what_redis_cannot_do_now(
    new_app: NewApp,
    own_server: DevServer,
    admin: Any,
    caplog: pytest.LogCaptureFixture,
    begin: Callable[[Any], Awaitable[None]],
    end: Callable[[Any], Awaitable[None]],
    said: str,
    is_known: bool,
) -> None:
    app = new_app(own_server.url)
    if is_known:
        await store_of(app)
    await begin(admin)
    worker, told_to_stop = app.worker(name="w1"), app.worker(name="w2")
    running, leaving = asyncio.create_task(worker.run()), asyncio.create_task(told_to_stop.run())
    try:
        await eventually(lambda: caplog.text.count("this worker waits") == 2, "both to say why they wait")
        assert said in caplog.text
        told_to_stop.stop()
        await asyncio.wait_for(leaving, 10)
        assert not worker.ready.is_set()
    finally:
        await end(admin)
    await asyncio.wait_for(worker.ready.wait(), 20)
    assert await (await app.rpc("a", double, 1)) == 2
    worker.abort()
    await running


async def test_a_client_of_a_replica_hears_what_it_is(new_app: NewApp, own_server: DevServer, admin: Any) -> None:
    await _demote(admin)
    with pytest.raises(StoreUnavailable, match="read only replica"):
        await new_app(own_server.url).rpc("a", double, 1)


async def test_a_right_that_is_refused_at_the_start_ends_a_worker_at_once(
    new_app: NewApp, own_server: DevServer, admin: Any
) -> None:
    for command in ("hmget", "get", "xgroup", "evalsha", "zadd"):
        await admin.execute_command("ACL", "SETUSER", "default", f"-{command}")
        with pytest.raises(StoreRefused):
            await asyncio.wait_for(new_app(own_server.url).worker().run(), 10)
        await admin.execute_command("ACL", "SETUSER", "default", "+@all")
    await admin.execute_command("ACL", "SETUSER", "default", "-info")  # what it would say is not needed
    async with serving(app := new_app(own_server.url)):
        assert await (await app.rpc("a", double, 1)) == 2


async def test_a_worker_begins_when_its_redis_does_and_when_connections_last(
    new_app: NewApp, own_server: DevServer, caplog: pytest.LogCaptureFixture
) -> None:
    proxy = Proxy()
    await proxy.start(own_server.port)
    own_server.kill()
    app = new_app(f"redis://127.0.0.1:{proxy.port}")
    worker = app.worker(name="w1")
    running = asyncio.create_task(worker.run())
    try:
        await eventually(lambda: "this worker waits" in caplog.text, "the worker to say why it waits")
        own_server.start()
        for _ in range(200):
            proxy.cut()
            await asyncio.sleep(0.002)
        await asyncio.wait_for(worker.ready.wait(), 20)
        assert "Redis serves this worker again" in caplog.text
        assert await (await app.rpc("a", double, 1)) == 2
    finally:
        worker.abort()
        await running
        await app.aclose()
        await proxy.close()
