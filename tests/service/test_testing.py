"""The test kit: a whole service in one process, whose clock can be moved."""

from __future__ import annotations

import asyncio
import textwrap
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

import durasleep
from durasleep import Canceled, Context, Durasleep, Retry, TimedOut, UsageError, WaitTimeout, progress, testing
from durasleep.errors import Mismatch, Stalled
from durasleep.testing import Env
from durasleep.transport.connection import Link
from durasleep.transport.reply_errors import Reply
from harness.servers import FAKE, Server
from tests.service.workers import ended

Kit = Callable[..., AbstractAsyncContextManager[Env]]


def own_tasks() -> list[asyncio.Task[Any]]:
    """All tasks but those of blocked reads in fakeredis, which outlive their connection."""
    return [task for task in asyncio.all_tasks() if "AsyncFakeSocket" not in repr(task)]


@pytest.fixture
async def kit(kit_server: Server) -> AsyncIterator[Kit]:
    """``testing.env`` on fakeredis and on real servers; nothing of it may be left."""

    def make(app: Durasleep, **options: Any) -> AbstractAsyncContextManager[Env]:
        return testing.env(app, redis=None if kit_server.kind == FAKE else kit_server.url, **options)

    yield make
    client: Any = kit_server.sync_client()
    assert list(client.scan_iter("{test-*")) == []
    assert ended(thread for thread in threading.enumerate() if thread.name.startswith("durasleep-heart"))
    assert own_tasks() == [asyncio.current_task()]


@pytest.fixture
def app() -> Durasleep:
    return Durasleep()


def send(log: str) -> None:
    raise AssertionError(f"{log} was really sent")


def daily(days: int) -> Callable[..., Any]:
    async def reminding(ctx: Context) -> list[str]:
        seen: list[str] = []
        for day in range(days):
            await ctx.sleep(timedelta(days=1))
            await ctx.run(send, f"day {day + 1}")
            seen.append(f"{ctx.now():%m-%d}")
        return seen

    return reminding


async def test_thirty_days_pass_one_by_one_in_a_moment(kit: Kit, app: Durasleep) -> None:
    reminding = app.workflow(daily(30))
    sent: list[str] = []
    async with kit(app) as env:
        env.mock(send, sent.append)
        began = await env.now()
        handle = await env.start(reminding)
        await env.skip(days=29.5)
        assert len(sent) == 29
        assert not await handle.done()
        await env.skip(hours=12)
        days = [f"{began + timedelta(days=day):%m-%d}" for day in range(1, 31)]
        assert await handle == days
        assert await env.now() - began == timedelta(days=30)
    assert sent == [f"day {day}" for day in range(1, 31)]


async def test_the_clock_stands_still_however_long_things_take(kit: Kit, app: Durasleep) -> None:
    @app.workflow
    async def working(ctx: Context) -> list[datetime]:
        seen: list[datetime] = []
        for _ in range(3):
            await ctx.sleep(timedelta(days=1))
            await ctx.run(asyncio.sleep, 0.05)
            seen.append(ctx.now())
        return seen

    async with kit(app) as env:
        began = await env.now()
        handle = await env.start(working)
        await asyncio.sleep(0.05)
        await env.skip(days=3)
        days = [timedelta(seconds=round((seen - began).total_seconds(), 1)) for seen in await handle]
        assert days == [timedelta(days=1), timedelta(days=2), timedelta(days=3)]
        await asyncio.sleep(0.05)
        await env.run_until_idle()
        assert await env.now() - began == timedelta(days=3)


async def test_what_is_published_is_seen_as_soon_as_nothing_runs(kit: Kit, app: Durasleep) -> None:
    async def step() -> None:
        progress(1, 2)

    @app.workflow
    async def telling(ctx: Context) -> None:
        ctx.publish(status="asleep")
        await ctx.sleep(timedelta(days=1))
        await ctx.run(step)
        ctx.publish(status="awake")

    async with kit(app) as env:
        handle = await env.start(telling)
        assert (await env.view(handle.id)).status == "asleep"
        await env.skip(days=1)
        view = await env.view(handle.id)
        assert view.status == "awake"
        assert view.progress is not None
        assert view.progress.fraction == 0.5


def docstring_example() -> str:
    return textwrap.dedent("".join(line + "\n" for line in str(testing.__doc__).splitlines() if line[:4] == "    "))


async def test_the_example_of_the_documentation_works(app: Durasleep) -> None:
    @app.workflow
    async def remind_daily(ctx: Context, email: str) -> str:
        for _ in range(30):
            await ctx.sleep(timedelta(days=1))
            await ctx.run(len, email)
        return "reminded 30 times"

    names: dict[str, Any] = {"app": app, "remind_daily": remind_daily, "durasleep": durasleep}
    example = docstring_example()
    assert "await env.skip(days=30)" in example
    exec(f"async def example():\n{textwrap.indent(example, '    ')}", names)
    await names["example"]()


async def test_awaiting_what_cannot_come_says_so(kit: Kit, app: Durasleep) -> None:
    @app.workflow
    async def napping(ctx: Context) -> str:
        await ctx.sleep(timedelta(days=1))
        return "rested"

    @app.workflow
    async def approving(ctx: Context) -> str:
        return await ctx.promise(name="approval")

    async with kit(app) as env:
        nap = await env.start(napping, id="nap")
        with pytest.raises(
            Stalled, match=r"nap is suspended: it waits for timer nap~1; the clock stands at .* env.skip"
        ):
            await nap
        with pytest.raises(Stalled, match="it waits for promise a~1 approval"):
            await app.gather([await env.start(approving, id="a")])
        with pytest.raises(Stalled, match="e is queued: nobody serves its group"):
            await (await app.rpc("e", approving, target="billing"))
        with pytest.raises(Stalled, match="p is suspended: nobody has settled it"):
            await (await app.promises.create("p"))
        with pytest.raises(WaitTimeout):
            await nap.result(timeout=0.1)
        await app.cancel("e", force=True)
        await env.skip(days=1)
        assert await nap == "rested"


async def test_another_event_loop_may_wait_too(kit: Kit, app: Durasleep) -> None:
    @app.workflow
    async def napping(ctx: Context) -> str:
        await ctx.sleep(timedelta(days=1))
        return "rested"

    async def elsewhere() -> str:
        try:
            return await app.get("nap").result(timeout=20)
        finally:
            await app.aclose()

    async with kit(app) as env:
        await env.start(napping, id="nap")
        heard = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
        await env.skip(days=1)
        assert await heard == "rested"


async def test_what_another_task_of_the_test_brings_about_is_waited_for(kit: Kit, app: Durasleep) -> None:
    @app.workflow
    async def approving(ctx: Context) -> str:
        await ctx.sleep(timedelta(days=1))
        return await ctx.promise(name="approval")

    async with kit(app) as env:
        handle = await env.start(approving, id="a")

        async def hearing() -> str:
            return await handle

        heard = asyncio.create_task(hearing())
        await env.skip(days=1)
        assert await app.promises.resolve("a~2", "yes")
        assert await heard == "yes"


async def test_a_task_that_waits_for_another_execution_holds_up_no_clock(kit: Kit, app: Durasleep) -> None:
    @app.workflow
    async def napping(ctx: Context) -> str:
        await ctx.sleep(timedelta(days=1))
        return f"{ctx.now():%d}"

    @app.task
    async def calling(id: str) -> list[str]:
        return [await (await app.rpc(f"{id}-{number}", napping)) for number in range(2)]

    @app.workflow
    async def through_a_step(ctx: Context) -> list[str]:
        return await ctx.run(calling, "b")

    async with kit(app) as env:
        began = await env.now()
        days = [f"{began + timedelta(days=day):%d}" for day in (1, 2, 3, 4)]
        handle = await env.start(calling, "a")
        await env.skip(days=1)
        assert not await handle.done()
        await env.skip(days=1)
        assert await handle == days[:2]
        assert await env.run(through_a_step) == days[2:]


async def test_tasks_that_wait_in_a_circle_are_named(kit: Kit, app: Durasleep) -> None:
    @app.task
    async def calling(other: str) -> str:
        return await (await app.rpc(other, "calling", "a"))

    async with kit(app) as env:
        handle = await env.start(calling, "b", id="a")
        with pytest.raises(Stalled, match="a is running: what runs waits: a for b, b for a"):
            await handle
        await app.cancel("b")


def test_without_asyncio_it_is_the_same(kit_server: Server, app: Durasleep) -> None:
    @app.workflow
    async def approving(ctx: Context, name: str) -> str:
        await ctx.sleep(timedelta(days=1))
        await ctx.run(send, name)
        return await ctx.promise(name="approval", timeout=timedelta(days=7))

    with testing.sync_env(app, redis=None if kit_server.kind == FAKE else kit_server.url) as env:
        began = env.now()
        sent = env.mock(send, Mock(return_value=None)).stand_in
        handle = env.start(approving, "ada", id="a")
        with pytest.raises(Stalled, match="a is suspended"):
            handle.result()
        [timer] = env.timers()
        assert (timer.id, timer.due_at - began) == ("a~1", timedelta(days=1))
        env.crash_worker()
        env.skip(days=1)
        sent.assert_called_once_with("ada")
        assert not handle.done()
        assert env.replay("a").ok
        assert env.call(app.promises.resolve, "a~3", "yes")
        assert handle.result() == "yes"
        with pytest.raises(TimedOut):
            env.run(approving, "bob")
        assert env.run_until_idle() is None
        ending = env.start(approving, "eve")
        env.run_until_idle()
        ending.cancel()
        with pytest.raises(Canceled):
            ending.result()
        assert env.now() - began == timedelta(days=9)
    client: Any = kit_server.sync_client()
    assert list(client.scan_iter("{test-*")) == []
    assert ended(thread for thread in threading.enumerate() if thread.name.startswith("durasleep"))


async def test_thirty_days_cost_a_few_calls_a_day(kit: Kit, app: Durasleep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why it takes a fraction of a second (``scripts/bench month``): no waiting, and few script calls a day."""
    scripts = 0
    exchange = Link.exchange

    async def counting(self: Link, commands: Sequence[Sequence[bytes]], *, block_s: float = 0.0) -> list[Reply]:
        nonlocal scripts
        scripts += sum(command[0] == b"EVALSHA" for command in commands)
        return await exchange(self, commands, block_s=block_s)

    monkeypatch.setattr(Link, "exchange", counting)
    reminding = app.workflow(daily(30))
    async with kit(app) as env:
        env.mock(send, Mock(return_value=None))
        assert len(await env.run(reminding)) == 30
    assert scripts < 30 * 10


async def test_run_moves_the_clock_until_the_end_and_raises_what_was_raised(kit: Kit, app: Durasleep) -> None:
    @app.workflow
    async def waiting(ctx: Context, days: int) -> str:
        try:
            async with asyncio.timeout(timedelta(days=7).total_seconds()):
                await ctx.sleep(timedelta(days=days))
        except TimeoutError:
            raise ValueError(f"{days} days are too many") from None
        return f"{days} days"

    async with kit(app) as env:
        assert await env.run(waiting, 3) == "3 days"
        assert await env.run("waiting", days=5, id="named") == "5 days"
        with pytest.raises(ValueError, match="9 days are too many"):
            await env.run(waiting, 9)


async def test_what_no_clock_brings_is_said(kit: Kit, app: Durasleep) -> None:
    @app.workflow
    async def approving(ctx: Context) -> str:
        await ctx.sleep(60)
        return await ctx.promise(name="approval")

    @app.workflow
    async def elsewhere(ctx: Context) -> str:
        return await ctx.rpc(approving, target="billing")

    @app.workflow
    async def stuck(ctx: Context) -> None:
        await asyncio.Event().wait()

    async with kit(app) as env:
        with pytest.raises(Stalled, match="a-1 is suspended: it waits for promise a-1~2 approval"):
            await env.run(approving, id="a-1")
        assert await app.promises.resolve("a-1~2", "yes")
        assert await app.get("a-1") == "yes"
        with pytest.raises(Stalled, match="e-1 is suspended: it waits for child e-1~1"):
            await env.run(elsewhere, id="e-1")
        with pytest.raises(Stalled, match="s-1 is halted: s-1 cannot go on: it waits for something"):
            await env.run(stuck, id="s-1")
        await app.cancel("e-1", force=True)


async def test_other_groups_are_served_when_named(kit: Kit, app: Durasleep) -> None:
    @app.workflow
    async def child(ctx: Context) -> str:
        await ctx.sleep(60)
        return ctx.info.group

    @app.workflow
    async def parent(ctx: Context) -> str:
        return await ctx.rpc(child, target="billing")

    async with kit(app, groups=("workers", "billing")) as env:
        assert await env.run(parent) == "billing"


async def test_timers_are_listed_and_can_be_controlled(kit: Kit, app: Durasleep) -> None:
    @app.workflow
    async def sleeping(ctx: Context) -> str:
        await ctx.sleep(timedelta(days=2), name="nap")
        return f"{ctx.now():%d}"

    async with kit(app) as env:
        began = await env.now()
        handle = await env.start(sleeping)
        [timer] = await env.timers()
        assert (timer.id, timer.kind, timer.name, timer.func) == (f"{handle.id}~1", "timer", "nap", "sleeping")
        assert timer.due_at - began == timedelta(days=2)
        await app.reschedule(timer.id, timedelta(days=20))
        await env.skip(timedelta(days=19))
        assert not await handle.done()
        await app.wake(timer.id)
        assert await handle == f"{began + timedelta(days=19):%d}"
        assert await env.timers() == []
        assert await env.run_until_idle() is None


async def test_retries_deadlines_delays_and_schedules_go_by_the_moved_clock(kit: Kit, app: Durasleep) -> None:
    calls: list[str] = []

    @app.task(retry=Retry(attempts=3, delay=timedelta(hours=6), delay_max=timedelta(days=1), jitter=0))
    def charge() -> str:
        calls.append("charge")
        if len(calls) < 3:
            raise ConnectionError
        return "paid"

    @app.workflow
    async def waiting(ctx: Context) -> None:
        await ctx.promise()

    @app.task
    def tick() -> None:
        calls.append("tick")

    async with kit(app) as env:
        began = await env.now()
        assert await env.run(charge) == "paid"
        assert await env.now() - began == timedelta(hours=18)
        with pytest.raises(TimedOut):
            await env.run(waiting, timeout=timedelta(days=400))
        later = await app.rpc("later", tick, delay=timedelta(days=5))
        await env.skip(days=4)
        assert not await later.done()
        await env.skip(days=1)
        assert await later.done()
        calls.clear()
        midnight = (await env.now()).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        await app.schedule("daily", "0 0 * * *", tick)
        await env.skip(midnight - await env.now() + timedelta(days=2, minutes=1))
        assert calls == ["tick"] * 3
        assert await app.unschedule("daily")


async def test_a_crashed_worker_is_taken_over_at_once_and_its_step_runs_again(kit: Kit, app: Durasleep) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    runs: list[int] = []

    async def working() -> int:
        runs.append(len(runs) + 1)
        began.set()
        await go_on.wait()
        return runs[-1]

    @app.workflow
    async def relying(ctx: Context) -> list[int]:
        before = await ctx.run(len, [1])
        return [before, await ctx.run(working), ctx.info.crash_count]

    async with kit(app) as env:
        handle = await env.start(relying)
        await began.wait()
        began.clear()
        await env.crash_worker()
        await began.wait()
        go_on.set()
        assert await handle == [1, 2, 1]
        assert runs == [1, 2]


async def test_steps_tasks_and_workflows_are_replaced_by_what_a_test_gives(kit: Kit, app: Durasleep) -> None:
    @app.task
    def charge(cents: int) -> str:
        raise AssertionError(cents)

    @app.workflow
    async def shipping(ctx: Context, address: str) -> str:
        raise AssertionError(address)

    @app.workflow
    async def ordering(ctx: Context) -> list[Any]:
        return [
            await ctx.run(charge, 1),
            await ctx.rpc(charge, 2),
            await ctx.rpc(shipping, "Oslo"),
            await ctx.run(send, "mail"),
        ]

    async with kit(app) as env:
        charged, shipped = AsyncMock(side_effect="charged {}".format), Mock(return_value="shipped")
        sent = Mock(return_value=None)
        with env.mock("charge", charged), env.mock(shipping, shipped), env.mock(send, sent):
            assert await env.run(ordering) == ["charged 1", "charged 2", "shipped", None]
            with (
                env.mock(charge, Mock(side_effect=ValueError("declined"))),
                pytest.raises(ValueError, match="declined"),
            ):
                await env.run(ordering)
            assert (await env.run(ordering))[0] == "charged 1"
        assert [call.args for call in charged.await_args_list] == [(1,), (2,), (1,), (2,)]
        shipped.assert_called_with("Oslo")
        with pytest.raises(AssertionError, match="1"):
            await env.run(ordering)
        with pytest.raises(UsageError, match="no function 'chrage'"), env.mock("chrage", charged):
            pass


async def test_replay_tells_whether_todays_code_goes_on(kit: Kit, app: Durasleep) -> None:
    def workflow(*steps: str) -> Callable[..., Any]:
        async def ordering(ctx: Context) -> None:
            for step in steps:
                await ctx.run({"charge": charge, "ship": ship}[step])
            await ctx.promise(name="signed")

        return ordering

    def charge() -> None: ...

    def ship() -> None: ...

    app.workflow(workflow("charge"))
    async with kit(app) as env:
        await env.start("ordering", id="order-1")
        assert "ordering" in (await env.replay("order-1")).text
        app.registry = app.registry.__class__()
        app.workflow(workflow("ship"))
        with pytest.raises(Mismatch, match=r"order-1: (?s:.)*\+ 1      step        '.*ship'"):
            await env.replay("order-1")


@pytest.mark.parametrize("always_suspend", [False, True])
async def test_always_suspended_or_not_the_results_are_the_same(kit: Kit, app: Durasleep, always_suspend: bool) -> None:
    starts: list[int] = []

    @app.workflow
    async def ordering(ctx: Context) -> list[Any]:
        starts.append(1)
        both = await asyncio.gather(ctx.run(len, "ab"), ctx.run(len, "abc"))
        winner = await ctx.race(ctx.promise(timeout=90), ctx.sleep(60))
        return [*both, winner.index, await ctx.run(len, "abcd")]

    async with kit(app, always_suspend=always_suspend, debug=False) as env:
        assert await env.run(ordering) == [2, 3, 1, 4]
    # at its start and at its wake-up, or once more for each commit with new settlements
    assert len(starts) == 2 if not always_suspend else len(starts) >= 4


async def test_debug_is_on_and_can_be_turned_off(kit: Kit, app: Durasleep) -> None:
    numbers = iter(range(1, 100))

    @app.workflow
    async def restless(ctx: Context) -> None:
        await ctx.sleep(next(numbers))

    async with kit(app) as env:
        with pytest.raises(Stalled, match="not deterministic"):
            await env.run(restless)


async def test_the_application_is_pointed_back_and_its_lifespan_is_run(kit: Kit, app: Durasleep) -> None:
    lived: list[str] = []

    @app.lifespan
    async def shared() -> AsyncGenerator[str]:
        lived.append("opened")
        yield "pool"
        lived.append("closed")

    @app.task
    def using() -> str:
        return app.resources

    settings, namespace = app.settings, app.namespace
    async with kit(app) as env:
        assert app.settings.movable_clock
        assert await env.run(using) == "pool"
    assert (app.settings, app.namespace, app.is_addressed) == (settings, namespace, False)
    assert lived == ["opened", "closed"]


async def test_what_a_task_starts_by_the_application_is_served_too(kit: Kit, app: Durasleep) -> None:
    @app.task
    async def starting() -> str:
        return (await app.rpc("other", other)).id

    @app.workflow
    async def other(ctx: Context) -> str:
        await ctx.sleep(timedelta(days=1))
        return "served"

    async with kit(app) as env:
        assert await env.run(starting) == "other"
        await env.skip(days=1)
        assert await app.get("other") == "served"


async def test_a_cancel_in_a_test_runs_its_clean_up(kit: Kit, app: Durasleep) -> None:
    undone: list[str] = []

    @app.workflow
    async def ordering(ctx: Context) -> None:
        ctx.on_cancel(undone.append, "refund")
        await ctx.sleep(timedelta(days=30))

    async with kit(app) as env:
        handle = await env.start(ordering)
        await env.skip(days=3)
        await handle.cancel()
        with pytest.raises(Canceled):
            await handle
        assert undone == ["refund"]


async def test_a_loop_without_end_ends_a_test_with_what_loops(kit: Kit, app: Durasleep) -> None:
    @app.workflow
    async def polling(ctx: Context) -> None:
        while True:
            await ctx.sleep(0.5)

    async with kit(app, patience_s=0.5) as env:
        await env.start(polling, id="p-1")
        with pytest.raises(
            Stalled, match=r"after 0.5 s the clock .* has not reached .* next is p-1~\d+ at .* patience_s"
        ):
            await env.skip(days=30)
        with pytest.raises(Stalled, match="and p-1 has not ended"):
            await env.run(polling, id="p-1")


async def test_a_step_that_hangs_is_named(kit: Kit, app: Durasleep) -> None:
    @app.workflow
    async def hanging(ctx: Context) -> None:
        await ctx.run(asyncio.Event().wait)

    async with kit(app, patience_s=0.2) as env:
        with pytest.raises(Stalled, match="this still runs: hung"):
            await env.run(hanging, id="hung")


async def test_the_moved_clock_is_told_to_workflows_only(kit: Kit, app: Durasleep) -> None:
    @app.workflow
    async def looking(ctx: Context) -> str:
        return ctx.now().isoformat()

    async with kit(app) as env:
        await env.skip(days=3650)
        told = datetime.fromisoformat(await env.run(looking))
        assert timedelta(days=3649) < told - datetime.now(UTC) < timedelta(days=3651)


async def test_a_client_of_the_tests_own_is_taken(kit_server: Server, app: Durasleep) -> None:
    @app.workflow
    async def sleeping(ctx: Context) -> str:
        await ctx.sleep(timedelta(days=1))
        return "rested"

    for client in (kit_server.client(decode_responses=True), kit_server.sync_client()):
        async with testing.env(app, redis=client) as env:
            assert await env.run(sleeping) == "rested"
        looking: Any = kit_server.sync_client()
        assert list(looking.scan_iter("{test-*")) == []
        assert own_tasks() == [asyncio.current_task()]


PLUGIN_TEST = """
from datetime import timedelta
from durasleep import Context, Durasleep

app = Durasleep()

@app.workflow
async def napping(ctx: Context) -> str:
    await ctx.sleep(timedelta(days=30))
    return "rested"

def test_a_nap_without_asyncio(durasleep_sync_env):
    with durasleep_sync_env(app) as env:
        assert env.run(napping) == "rested"

async def test_a_nap(durasleep_env, durasleep_redis):
    async with durasleep_env(app) as env:
        assert await env.run(napping) == "rested"
        print("on", durasleep_redis, app.is_addressed)
"""


def test_pytest_finds_the_fixtures_by_itself(pytester: pytest.Pytester, kit_server: Server) -> None:
    pytester.makepyfile(PLUGIN_TEST)
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    options = [] if kit_server.kind == FAKE else ["--durasleep-redis", kit_server.url]
    done = pytester.runpytest_subprocess("-s", *options)
    done.assert_outcomes(passed=2)
    done.stdout.fnmatch_lines([f"*on {None if kit_server.kind == FAKE else kit_server.url} True*"])


async def test_a_namespace_of_a_test_may_have_several_partitions(kit: Kit, app: Durasleep) -> None:
    """Calls go from one to another without real time, and transactions are checked as they will be."""

    @app.workflow
    async def there(ctx: Context, days: int) -> int:
        await ctx.sleep(timedelta(days=days))
        return days

    @app.workflow
    async def here(ctx: Context) -> list[Any]:
        found = await asyncio.gather(*(ctx.rpc(there, days, id=f"there-{days}") for days in range(4)))
        return [*found, *await ctx.transaction().incr(ctx.key("counter"))]

    @app.workflow
    async def strays(ctx: Context) -> None:
        await ctx.transaction().incr("counter")

    async with kit(app, partitions=4) as env:
        began = await env.now()
        assert await env.run(here) == [0, 1, 2, 3, 1]
        assert timedelta(days=3) <= await env.now() - began < timedelta(days=3, minutes=1)
        with pytest.raises(Stalled, match=r"name it by ctx\.key"):
            await env.run(strays)


def with_messages(app: Durasleep) -> None:
    @app.workflow
    async def order(ctx: Context, cents: int) -> str:  # pyright: ignore[reportUnusedFunction]
        try:
            paid = await ctx.receive("payment", int, timeout=timedelta(days=3))
        except TimedOut:
            return "never paid"
        receipt = await ctx.receive("receipt")
        return f"{paid} of {cents}, {receipt}"

    @app.workflow
    async def quoting(ctx: Context) -> int:  # pyright: ignore[reportUnusedFunction]
        count = 0
        async for message in ctx.messages("quote", timeout="7d"):
            count += 1
            if message.value == "later":
                await ctx.sleep("1h")
            elif message.value == "bad":
                await message.reply(error=LookupError("no such item"))
                continue
            await message.reply({"price": 2 * count})
        return count


async def test_messages_are_sent_and_a_receive_times_out_by_the_clock(kit: Kit, app: Durasleep) -> None:
    with_messages(app)
    async with kit(app) as env:
        assert await env.run("order", 5, id="never") == "never paid"
        assert await env.send("a", "payment", 3, start=("order", 5)) == "stored"
        assert await env.run_until_idle() is None
        with pytest.raises(Stalled, match=r"a is suspended: it waits for a message on channel 'receipt'$"):
            await env.app.get("a")
        with pytest.raises(Stalled, match="b is suspended: it waits for a message on channel 'payment'; the clock"):
            await (await env.start("order", 5, id="b"))
        assert await env.send("a", "receipt", "no 7", key="k") == "delivered"
        assert await env.app.get("a").result() == "3 of 5, no 7"
        await env.skip(days=2.9)
        assert not await env.app.get("b").done()
        await env.skip(hours=3)
        assert await env.app.get("b") == "never paid"
        assert (await env.replay("a")).ok
        assert (await env.replay("b")).ok


async def test_questions_are_answered_while_the_clock_stands(kit: Kit, app: Durasleep) -> None:
    with_messages(app)
    async with kit(app, partitions=3) as env:
        assert await env.ask("q", "quote", "ring", start=("quoting",)) == {"price": 2}
        with pytest.raises(LookupError, match="no such item"):
            await env.ask("q", "quote", "bad")
        with pytest.raises(Stalled, match=r"q is suspended: it waits for timer q~\S+; the clock"):
            await env.ask("q", "quote", "later")
        await env.skip(hours=1)
        await env.crash_worker()
        assert await env.ask("q", "quote", "again", returns=dict[str, int]) == {"price": 8}
        await env.skip(days=7)
        assert await env.app.get("q") == 4
        assert (await env.replay("q")).ok


def test_messages_without_asyncio_are_the_same(kit_server: Server, app: Durasleep) -> None:
    with_messages(app)
    with testing.sync_env(app, redis=None if kit_server.kind == FAKE else kit_server.url) as env:
        assert env.send("a", "payment", 3, start=("order", 5)) == "stored"
        assert env.ask("q", "quote", start=("quoting",)) == {"price": 2}
        env.run_until_idle()
        assert env.send("a", "receipt", "no 7") == "delivered"
        assert env.call(app.get("a").result) == "3 of 5, no 7"
