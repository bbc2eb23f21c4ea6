"""What workflows, steps and tasks publish, as others see it: at once, to the end, after kills and replays."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import durasleep
from durasleep import Context, Durasleep, NotFound, Retry, Settings, State, UsageError, View, WaitTimeout
from durasleep.client.client import inbox_of, store_of
from durasleep.errors import InvalidId, NotAllowed, NotDurable, NotSerializable, PayloadTooLarge
from durasleep.model import PromiseId
from durasleep.protocol import versions, view
from durasleep.protocol.keys import LIMIT, VIEW, F, meta_key
from durasleep.query import declaring
from durasleep.runtime.recording import check
from durasleep.worker.execution import sending
from durasleep.worker.execution.commits import Commits
from durasleep.worker.loops.declaring import Declaring
from harness.servers import Server
from tests.service.fixtures import NewApp
from tests.service.workers import Effects, Workers, eventually, serving, until

OFTEN = Retry(attempts=5, delay=0.001, jitter=0)


@pytest.fixture(autouse=True)
async def known(new_app: NewApp) -> None:
    """No worker of an older version is left, and everybody knows it."""
    store = await store_of(new_app())
    await store.run(declaring.require(store.keyspaces, versions.CHANNELS))


@dataclass
class Place:
    city: str
    zip: int


async def published(app: Durasleep, id: str, look: Callable[[View], object]) -> View:
    """The view of an execution, when it looks like this."""
    last: list[View] = []

    async def seen() -> bool:
        last[:] = [await app.view(id)]
        return bool(look(last[0]))

    await eventually(seen, f"the view of {id}")
    return last[0]


async def fields(app: Durasleep, server: Server, id: str) -> list[Any]:
    store = await store_of(app)
    return await server.client().hkeys(store.keys(id).view(id))


async def test_a_workflow_is_seen_while_it_sleeps_and_after_its_end(app: Durasleep) -> None:
    @app.workflow
    async def order(ctx: Context) -> str:
        ctx.publish(status="waiting", place=Place("Rome", 7))
        await ctx.promise()
        ctx.publish(status="paid")
        ctx.publish(cents=4200)
        return "done"

    async with serving(app):
        handle = await app.rpc("a", order)
        seen = await published(app, "a", lambda seen: seen.values)
        assert seen == View("a", State.PENDING, {"status": "waiting", "place": {"city": "Rome", "zip": 7}})
        assert seen.status == "waiting"
        assert not seen.has_ended
        await until(app, "a", "suspended")
        assert await app.view("a") == seen
        await app.promises.resolve("a~1")
        assert await handle.result(20) == "done"
    seen = await app.view("a")
    assert (seen.state, seen.status, seen.values["cents"]) == (State.RESOLVED, "paid", 4200)
    assert seen.values["place"] == {"city": "Rome", "zip": 7}


@pytest.mark.parametrize("mode", ["plain", "suspending", "debugging"])
async def test_a_replay_writes_nothing_and_forgets_nothing(
    new_app: NewApp, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = new_app(settings=Settings(always_suspend=mode == "suspending", debug=mode == "debugging"))
    written: list[Any] = []
    encode = Context.publish

    def noting(self: Context, /, **values: Any) -> None:
        if not self.replaying:
            written.append(values)
        encode(self, **values)

    monkeypatch.setattr(Context, "publish", noting)

    async def step(n: int) -> int:
        return n

    @app.workflow
    async def steps(ctx: Context) -> int:
        items = [0]
        ctx.publish(items=items, at=0)
        for n in range(1, 4):
            items.append(await ctx.run(step, n))
            await ctx.sleep(0.01)
            ctx.publish(at=n)
        ctx.publish(**{"self": "me", "name with spaces": True})
        return 1

    async with serving(app):
        assert await (await app.rpc("a", steps)).result(20) == 1
    assert (await app.view("a")).values == {"items": [0], "at": 3, "self": "me", "name with spaces": True}
    assert [values["at"] for values in written if "at" in values] == [0, 1, 2, 3]


async def test_a_step_that_begins_with_it_does_not_wait_for_the_commit(app: Durasleep) -> None:
    gate = asyncio.Event()

    async def step() -> None:
        await gate.wait()

    @app.workflow
    async def steps(ctx: Context) -> None:
        ctx.publish(status="working")
        await ctx.run(step)
        ctx.publish(status="done")

    async with serving(app):
        handle = await app.rpc("a", steps)
        await published(app, "a", lambda seen: seen.status == "working")
        gate.set()
        await handle.result(20)
    assert (await app.view("a")).status == "done"


async def test_what_cannot_be_published_is_refused_and_changes_nothing(app: Durasleep) -> None:
    @app.workflow
    async def wrong(ctx: Context) -> list[str]:
        ctx.publish(a=1)
        said: list[str] = []
        for values, kind in (
            ({"big": "x" * 5000}, PayloadTooLarge),
            ({"a": 2, "odd": object()}, NotSerializable),
            ({"": 1}, UsageError),
            ({"a\nb": 1}, InvalidId),
        ):
            with pytest.raises(kind) as raised:
                ctx.publish(**values)
            said.append(str(raised.value))
            await ctx.sleep(0.001)
        for verb in (durasleep.publish, lambda: durasleep.progress(1)):
            with pytest.raises(UsageError, match=r"in a workflow, use ctx.publish\(...\)"):
                verb()
        return said

    async def outside(ctx: Context) -> None:
        ctx.publish(a=3)

    @app.workflow
    async def leaking(ctx: Context) -> None:
        await ctx.run(outside, ctx)

    async with serving(app):
        said = await (await app.rpc("a", wrong)).result(20)
        with pytest.raises(NotDurable):
            await (await app.rpc("b", leaking)).result(20)
    assert "what wrong publishes" in said[0]
    assert "over the cap of 4096" in said[0]
    assert "'big'" in said[0]
    assert "the published value 'odd' of wrong" in said[1]
    assert (await app.view("a")).values == {"a": 1}
    with pytest.raises(UsageError, match="only in tasks and steps"):
        durasleep.publish(a=1)


async def test_steps_and_tasks_publish_their_values_and_their_progress(app: Durasleep) -> None:
    gate = asyncio.Event()

    async def copy(name: str) -> str:
        durasleep.publish(file=name)
        durasleep.progress(1, 4, "reading")
        await gate.wait()
        durasleep.progress(4, 4, "all read")
        return name

    def count() -> int:
        for n in range(1000):
            durasleep.progress(n)
        durasleep.publish(last=999)
        return 1

    @app.task
    async def import_all(rows: int) -> int:
        durasleep.publish(status="importing")
        durasleep.progress(0, rows)
        await gate.wait()
        durasleep.progress(rows, rows)
        return rows

    @app.workflow
    async def steps(ctx: Context) -> None:
        await ctx.run(count)
        await asyncio.gather(ctx.run(copy, "a.txt"), ctx.run(copy, "b.txt"))

    async with serving(app):
        handles = [await app.rpc("steps", steps), await app.rpc("task", import_all, 8)]
        seen = await published(app, "steps", lambda seen: len(seen.steps) == 3)
        one = seen.steps["1"]
        assert one.values == {"last": 999}
        assert one.progress is not None
        assert (one.progress.done, one.progress.total, one.progress.fraction) == (999, None, None)
        assert [seen.steps[n].values for n in ("2", "3")] == [{"file": "a.txt"}, {"file": "b.txt"}]
        assert seen.progress is not None
        assert seen.progress.fraction == 0.25
        assert seen.progress.text == "reading"
        task = await published(app, "task", lambda seen: seen.progress)
        assert task.status == "importing"
        assert task.steps == {}
        gate.set()
        for handle in handles:
            await handle.result(20)
    seen, task = await app.view("steps"), await app.view("task")
    assert seen.progress is not None
    assert seen.progress.text == "all read"
    assert task.progress is not None
    assert task.progress.fraction == 1
    assert task.values == {"status": "importing"}
    assert list(seen.steps) == ["1", "2", "3"]


async def test_a_further_attempt_begins_with_nothing_in_the_same_place(app: Durasleep) -> None:
    attempts = itertools.count(1)

    async def step() -> int:
        n = next(attempts)
        durasleep.publish(**{f"attempt {n}": True})
        if n < 3:
            raise ConnectionError("not yet")
        return n

    @app.task(retry=OFTEN)
    async def task() -> int:
        return await step()

    @app.workflow
    async def steps(ctx: Context) -> int:
        return await ctx.run(step, retry=OFTEN)

    async with serving(app):
        assert await (await app.rpc("a", steps)).result(20) == 3
        attempts = itertools.count(1)
        assert await (await app.rpc("t", task)).result(20) == 3
    assert {number: one.values for number, one in (await app.view("a")).steps.items()} == {"1": {"attempt 3": True}}
    assert (await app.view("t")).values == {"attempt 3": True}


async def test_progress_takes_numbers_and_a_short_text(app: Durasleep) -> None:
    problems: list[str] = []

    async def step() -> None:
        wrong: list[tuple[Any, ...]] = [
            ("1",),
            (True,),
            (float("nan"),),
            (1, "2"),
            (1, 2, 3),
            (1 << 70,),
        ]
        for given in wrong:
            with pytest.raises(UsageError) as raised:
                durasleep.progress(*given)
            problems.append(str(raised.value))
        durasleep.progress(5, 4, "x\n" * 1000)
        durasleep.publish(zero=0)

    @app.workflow
    async def steps(ctx: Context) -> None:
        await ctx.run(step)

    async with serving(app):
        await (await app.rpc("a", steps)).result(20)
    assert problems[0] == "progress: done is '1', and must be a number"
    assert problems[3] == "progress: total is '2', and must be a number"
    assert problems[4] == "progress: text is 3, and must be a text"
    seen = (await app.view("a")).steps["1"]
    assert seen.progress is not None
    assert seen.progress.fraction == 1
    assert seen.values == {"zero": 0}


async def test_an_execution_sends_at_most_one_write_a_second_and_the_last_value_always(
    app: Durasleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[float] = []
    send = Commits.publish

    def counting(self: Commits, lease: Any, said: Any) -> Any:
        sent.append(asyncio.get_running_loop().time())
        return send(self, lease, said)

    monkeypatch.setattr(Commits, "publish", counting)
    monkeypatch.setattr(sending, "EVERY_S", 0.2)

    async def step() -> None:
        number = 0
        while len(sent) < 4:
            durasleep.progress(number)
            number += 1
            await asyncio.sleep(0)
        durasleep.progress(-1)

    @app.workflow
    async def steps(ctx: Context) -> None:
        await asyncio.gather(ctx.run(step), ctx.run(step))

    async with serving(app):
        await (await app.rpc("a", steps)).result(20)
    assert min(later - earlier for earlier, later in itertools.pairwise(sent)) >= 0.19
    seen = (await app.view("a")).steps
    assert [one.progress.done for one in seen.values() if one.progress] == [-1, -1]


async def test_a_new_run_begins_with_nothing(app: Durasleep) -> None:
    async def step(run: int) -> None:
        durasleep.publish(run=run)

    @app.workflow
    async def runs(ctx: Context, run: int = 1) -> None:
        if run < 3:
            ctx.publish(run=run, **{f"run {run}": True})
            await ctx.run(step, run)
            ctx.publish(lost=True)
            ctx.continue_as_new(run + 1)
        await ctx.promise()
        ctx.publish(run=run)
        await ctx.run(step, run)

    async with serving(app):
        handle = await app.rpc("a", runs)
        seen = await published(app, "a", lambda seen: not seen.values)
        assert seen.steps == {}
        assert seen.progress is None
        await until(app, "a", "suspended")
        [pending] = (await app.describe("a")).waiting_on
        assert (await app.view("a")).values == {}
        await app.promises.resolve(pending.id)
        await handle.result(20)
    seen = await app.view("a")
    assert seen.values == {"run": 3}
    assert [one.values for one in seen.steps.values()] == [{"run": 3}]


async def test_a_halted_execution_shows_what_it_said_last(app: Durasleep) -> None:
    @app.workflow
    async def stuck(ctx: Context) -> None:
        ctx.publish(status="about to hang")
        await asyncio.get_running_loop().create_future()

    async with serving(app):
        await app.rpc("a", stuck)
        await until(app, "a", "halted")
    assert (await app.view("a")).status == "about to hang"


async def test_it_outlives_a_killed_worker(app: Durasleep, workers: Workers, effects: Effects) -> None:
    [first] = await workers.start("w1")
    handle = await app.rpc("a", "publishing", effects.path)
    await effects.standing("gate")
    seen = await published(app, "a", lambda seen: seen.progress)
    assert seen.status == "standing"
    assert seen.progress is not None
    assert seen.progress.done == 1
    await first.kill()
    assert await app.view("a") == seen
    effects.open("gate")
    await workers.start("w2")
    await handle.result(30)
    seen = await app.view("a")
    assert seen.status == "through"
    assert seen.progress is not None
    assert seen.progress.done == 2


async def test_a_fork_and_a_replay_begin_without_it(app: Durasleep) -> None:
    @app.workflow
    async def order(ctx: Context) -> str:
        ctx.publish(status="begun")
        await ctx.promise(name="first")
        ctx.publish(paid=True)
        await ctx.promise(name="second")
        ctx.publish(shipped=True)
        return "done"

    async with serving(app):
        handle = await app.rpc("a", order)
        for number in ("1", "2"):
            await until(app, "a", "suspended")
            await app.promises.resolve(f"a~{number}")
        await handle.result(20)
        verdict = check(await app.export("a"), app.registry, app.codec, app.settings)
        assert verdict.ok, verdict.text
        fork = await app.fork("a", "b", before="second")
        await until(app, "b", "suspended")
        assert "shipped" not in (await app.view("b")).values
        await app.promises.resolve("b~2")
        assert await fork.result(20) == "done"
    everything = {"status": "begun", "paid": True, "shipped": True}
    assert (await app.view("b")).values == everything, "the next change brings all of it"
    assert (await app.view("a")).values == everything


async def test_it_goes_with_its_family(app: Durasleep, real_server: Server) -> None:
    @app.workflow
    async def child(ctx: Context) -> None:
        ctx.publish(child=True)

    @app.workflow
    async def parent(ctx: Context) -> None:
        ctx.publish(parent=True)
        await ctx.rpc(child)

    async with serving(app):
        await (await app.options(retention="0.3s").rpc("p", parent)).result(20)
        assert (await app.view("p~1")).values == {"child": True}

        async def is_gone() -> bool:
            store = await store_of(app)
            keys = store.keys("p")
            names = [keys.view("p"), keys.view("p~1"), keys.promise("p"), keys.promise("p~1")]
            return await real_server.client().exists(*names) == 0

        await eventually(is_gone, "all of it to expire")
        with pytest.raises(NotFound):
            await app.view("p")


async def test_what_publishes_nothing_has_not_one_field_more(app: Durasleep, real_server: Server) -> None:
    async def step() -> int:
        return 1

    @app.workflow
    async def steps(ctx: Context) -> int:
        return await ctx.run(step)

    async with serving(app):
        await (await app.rpc("a", steps)).result(20)
    store = await store_of(app)
    assert F["extras"].encode() not in await real_server.client().hkeys(store.keys("a").promise("a"))
    assert await fields(app, real_server, "a") == []
    assert await app.view("a") == View("a", State.RESOLVED)


async def test_as_long_as_older_workers_are_left_steps_publish_nothing_and_go_on(
    new_app: NewApp, real_server: Server, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(_: Declaring, feature: str) -> None:
        assert feature == versions.CHANNELS
        raise NotAllowed("an older one is left")

    monkeypatch.setattr(Declaring, "require", refused)
    await real_server.client().hdel(meta_key(namespace), "features")
    app = new_app()

    @app.task
    async def task() -> int:
        return await step()

    async def step() -> int:
        durasleep.progress(1, 2)
        return 1

    @app.workflow
    async def steps(ctx: Context) -> int:
        return await ctx.run(step)

    async with serving(app):
        assert await (await app.rpc("a", steps)).result(20) == 1
        assert await (await app.rpc("t", task)).result(20) == 1
    for id in ("a", "t"):
        assert await app.view(id) == View(id, State.RESOLVED)


async def test_the_first_word_in_a_namespace_is_heard_a_little_later(
    new_app: NewApp,
    real_server: Server,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await real_server.client().hdel(meta_key(namespace), "features")
    monkeypatch.setattr(sending, "EVERY_S", 0.05)
    app, gate = new_app(), asyncio.Event()

    async def step() -> None:
        durasleep.progress(1, 2)
        await gate.wait()

    @app.workflow
    async def steps(ctx: Context) -> None:
        ctx.publish(status="working")
        await ctx.run(step)
        ctx.publish(status="done")

    async with serving(app):
        handle = await app.rpc("a", steps)
        await published(app, "a", lambda seen: seen.progress and seen.status == "working")
        gate.set()
        await handle.result(20)
    assert (await app.view("a")).status == "done"
    assert "deferred" not in caplog.text


# -- watching


async def test_a_watch_sees_the_latest_and_ends_with_the_execution(app: Durasleep) -> None:
    @app.workflow
    async def order(ctx: Context) -> None:
        for n in range(3):
            ctx.publish(status=n)
            await ctx.promise()

    seen: list[Any] = []
    async with serving(app):
        await app.rpc("a", order)
        await published(app, "a", lambda seen: seen.status == 0)
        async for one in app.watch("a", timeout=20):
            seen.append((one.status, one.state.value))
            if one.state is State.PENDING:
                await until(app, "a", "suspended")
                await app.promises.resolve(f"a~{len(seen)}")
    assert seen == [(0, "pending"), (1, "pending"), (2, "pending"), (2, "resolved")]
    assert [one.status async for one in app.watch("a")] == [2], "it has ended: nothing changes any more"


async def test_a_watch_of_what_publishes_nothing_sees_its_beginning_and_its_end(
    app: Durasleep, real_server: Server
) -> None:
    @app.workflow
    async def quiet(ctx: Context) -> None:
        await ctx.promise()

    async with serving(app):
        await app.rpc("a", quiet)
        await until(app, "a", "suspended")
        states: list[State] = []
        async for one in app.watch("a", timeout="20s"):
            states.append(one.state)
            if len(states) == 1:
                await app.promises.resolve("a~1")
    assert states == [State.PENDING, State.RESOLVED]
    assert await fields(app, real_server, "a") == []


async def test_a_watch_ends_in_time_or_when_nobody_wants_it(app: Durasleep, real_server: Server) -> None:
    await app.rpc("a", "later")
    for id, kind in (("nobody", NotFound), ("~", InvalidId)):
        with pytest.raises(kind):
            await anext(app.watch(id))
    short = app.watch("a", timeout=0.1)
    assert (await anext(short)).state is State.PENDING
    with pytest.raises(WaitTimeout, match=r"a has not settled within 0.1 s; it goes on"):
        await anext(short)

    async def is_struck() -> bool:
        return await fields(app, real_server, "a") == []

    await eventually(is_struck, "the line to be struck")
    first, second = app.watch("a"), app.watch("a")
    await anext(first)
    await anext(second)
    await first.aclose()
    assert await fields(app, real_server, "a") == [VIEW["watchers"].encode()], "another one watches it still"
    waiting = asyncio.ensure_future(anext(second))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await eventually(is_struck, "the line to be struck")
    await app.cancel("a", force=True)


@pytest.mark.long
async def test_a_hundred_changes_a_second_and_three_hundred_watchers(new_app: NewApp, app: Durasleep) -> None:
    @app.workflow
    async def busy(ctx: Context) -> None:
        await ctx.promise()
        for n in range(200):
            ctx.publish(n=n)
            await asyncio.sleep(0.01)

    clients = [new_app() for _ in range(20)]
    last: list[Any] = []

    async def watch(client: Durasleep) -> int:
        count = 0
        async for one in client.watch("a", timeout=60):
            before, count = count, count + 1
            if one.has_ended:
                last.append(one)
            assert before < 300
        return count

    async with serving(app):
        await app.rpc("a", busy)
        await until(app, "a", "suspended")
        watching = [asyncio.ensure_future(watch(client)) for client in clients for _ in range(15)]
        await eventually(lambda: sum(not one.done() for one in watching) == 300, "all to watch")
        await app.promises.resolve("a~1")
        counts = await asyncio.gather(*watching)
    assert len(last) == 300
    assert all(one.values == {"n": 199} for one in last)
    assert max(counts) > 2


async def test_more_clients_than_there_is_room_for_look_by_themselves(
    new_app: NewApp, app: Durasleep, monkeypatch: pytest.MonkeyPatch, real_server: Server
) -> None:
    monkeypatch.setattr("durasleep.client.waiting.CROWDED_S", 0.05)
    await app.rpc("a", "later")
    store, most = await store_of(app), LIMIT["watchers_max"]
    for n in range(most):
        await store.call(view.read_view(store.keys("a"), PromiseId("a"), inbox=f"in{n}"))
    watch = new_app().watch("a", timeout=20)
    assert (await anext(watch)).state is State.PENDING
    await app.cancel("a", force=True)
    assert (await anext(watch)).state is State.CANCELED
    for n in range(most):
        await real_server.client().delete(store.keys("a").inbox(f"in{n}"))


async def test_a_lost_hint_is_made_up_for(new_app: NewApp, app: Durasleep, real_server: Server) -> None:
    client = new_app(settings=Settings(client_check_s=0.2))
    await app.rpc("a", "later")
    watch = client.watch("a", timeout=20)
    await anext(watch)
    store = await store_of(app)
    await real_server.client().hdel(store.keys("a").view("a"), VIEW["watchers"])
    await app.cancel("a", force=True)
    assert (await anext(watch)).state is State.CANCELED


async def test_without_the_feature_it_is_read_again_and_again(
    new_app: NewApp, app: Durasleep, monkeypatch: pytest.MonkeyPatch, real_server: Server
) -> None:
    monkeypatch.setattr("durasleep.client.waiting.CROWDED_S", 0.05)

    async def refused(*_: Any) -> None:
        raise durasleep.NotAllowed("a worker of an older version is alive")

    client = new_app()
    monkeypatch.setattr(client, "_require", refused)
    await app.rpc("a", "later")
    watch = client.watch("a", timeout=20)
    await anext(watch)
    assert await fields(app, real_server, "a") == []
    store = await store_of(client)
    assert versions.CHANNELS not in store.partitions.features
    await app.cancel("a", force=True)
    assert (await anext(watch)).state is State.CANCELED
    assert inbox_of(client).streams(1) == [None]
