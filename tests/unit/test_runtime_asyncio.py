"""asyncio on the private loop: its functions work, are durable, and replay."""

from __future__ import annotations

import asyncio
import sys
import threading
from asyncio import as_completed as as_completed_by_name
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from durasleep.model import Kind, Number, State
from durasleep.runtime.context import Context
from durasleep.runtime.outcome import Halted, Rejected
from tests.unit.runtime_world import World, play, unwrap


async def napping(ctx: Context, seconds: float, value: Any) -> Any:
    await ctx.sleep(seconds)
    return value


def test_asyncio_sleep_is_a_durable_timer() -> None:
    async def sleeper(ctx: Context) -> str:
        await asyncio.sleep(30)
        return "slept"

    world = World(sleeper)
    assert unwrap(world.play()) == "slept"
    assert world.journal[Number("1")].kind is Kind.TIMER
    assert world.now_ms - world.info.created_ms == 30_000


def test_gather_returns_results_in_the_order_asked() -> None:
    async def gathering(ctx: Context) -> list[int]:
        return list(await asyncio.gather(napping(ctx, 3, 1), napping(ctx, 1, 2), napping(ctx, 2, 3)))

    assert play(gathering) == [1, 2, 3]


def test_gather_keeps_exceptions_as_results_when_told_to() -> None:
    async def failing(ctx: Context) -> None:
        await ctx.sleep(1)
        raise ValueError("no")

    async def gathering(ctx: Context) -> list[str]:
        return [
            repr(result) for result in await asyncio.gather(failing(ctx), napping(ctx, 2, 1), return_exceptions=True)
        ]

    assert play(gathering) == ["ValueError('no')", "1"]


def test_a_task_group_waits_for_all_and_cancels_the_rest_when_one_fails() -> None:
    async def failing(ctx: Context) -> None:
        await ctx.sleep(1)
        raise ValueError("no")

    async def grouping(ctx: Context) -> list[str]:
        log: list[str] = []

        async def other() -> None:
            try:
                await ctx.sleep(1000)
            except asyncio.CancelledError:
                log.append("canceled")
                raise

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(failing(ctx))
                group.create_task(other())
        except* ValueError as errors:
            log.append(str(errors.exceptions[0]))
        return log

    assert play(grouping) == ["canceled", "no"]


def test_wait_for_cancels_the_entry_it_gave_up_on() -> None:
    async def waiting(ctx: Context) -> str:
        try:
            await asyncio.wait_for(ctx.promise(), timeout=5)
        except TimeoutError:
            await ctx.sleep(1)
            return "too late"
        return "in time"

    world = World(waiting)
    assert unwrap(world.play()) == "too late"
    assert world.journal[Number("1")].state is State.CANCELED
    assert world.journal[Number("1")].stamp == 0
    assert play(waiting) == "too late"
    assert play(waiting, script={"1": (3000, State.RESOLVED, 1)}) == "in time"


def test_a_timeout_block_that_is_left_in_time_takes_its_timer_back() -> None:
    async def waiting(ctx: Context) -> str:
        async with asyncio.timeout(60):
            await ctx.sleep(1)
        await ctx.sleep(1)
        return "done"

    world = World(waiting)
    assert unwrap(world.play()) == "done"
    assert world.journal[Number("1")].state is State.CANCELED
    assert world.now_ms - world.info.created_ms == 2000


def test_a_timer_made_and_canceled_in_one_go_writes_nothing_but_takes_its_number() -> None:
    async def waiting(ctx: Context) -> str:
        async with asyncio.timeout(60):  # noqa: ASYNC100 - that is the point
            pass
        await ctx.sleep(1)
        return "done"

    world = World(waiting)
    world.play()
    assert list(world.journal) == ["2"]


def test_a_timeout_of_zero_never_reaches_the_journal() -> None:
    async def waiting(ctx: Context) -> str:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0)
        await asyncio.sleep(0)
        return "done"

    world = World(waiting)
    assert unwrap(world.play()) == "done"
    assert world.journal == {}


def test_a_timeout_block_that_expires_cancels_what_is_in_it_and_says_so() -> None:
    async def waiting(ctx: Context) -> list[Any]:
        log: list[Any] = []
        limit = asyncio.timeout(5)
        try:
            async with limit:
                try:
                    await ctx.promise()
                except asyncio.CancelledError:
                    log.append("canceled")
                    raise
        except TimeoutError:
            log.append(limit.expired())
        return log

    assert play(waiting) == ["canceled", True]


def test_timeout_at_is_an_instant_of_the_workflows_own_clock() -> None:
    async def waiting(ctx: Context) -> list[int]:
        deadline = asyncio.get_running_loop().time() + 5
        passed = list[int]()
        try:
            async with asyncio.timeout_at(deadline):
                for n in range(10):
                    await ctx.sleep(2)
                    passed.append(n)
        except TimeoutError:
            return passed
        return []

    world = World(waiting)
    assert unwrap(world.play()) == [0, 1]
    assert world.now_ms - world.info.created_ms == 5000
    assert play(waiting) == [0, 1]


def test_a_timeout_can_be_moved_and_the_timer_it_had_is_taken_back() -> None:
    async def waiting(ctx: Context) -> str:
        async with asyncio.timeout(2) as limit:
            await ctx.sleep(1)
            limit.reschedule(asyncio.get_running_loop().time() + 9)
            await ctx.sleep(5)
        return "in time"

    world = World(waiting)
    assert unwrap(world.play()) == "in time"
    assert world.journal[Number("1")].state is State.CANCELED
    assert play(waiting) == "in time"


@pytest.mark.parametrize(("outer", "inner", "ends"), [(5, 1, ["inner"]), (1, 5, ["outer"]), (2, 2, ["outer"])])
def test_of_nested_timeouts_the_earlier_one_ends_its_own_block(outer: int, inner: int, ends: list[str]) -> None:
    async def waiting(ctx: Context) -> list[str]:
        log: list[str] = []
        try:
            async with asyncio.timeout(outer):
                try:
                    async with asyncio.timeout(inner):
                        await ctx.promise()
                except TimeoutError:
                    log.append("inner")
        except TimeoutError:
            log.append("outer")
        return log

    assert play(waiting) == ends


def test_wait_for_a_coroutine_takes_the_same_numbers_on_every_python() -> None:
    async def waiting(ctx: Context) -> list[Any]:
        values = [await asyncio.wait_for(napping(ctx, 1, "in time"), 5)]
        try:
            await asyncio.wait_for(napping(ctx, 5, "too late"), 1)
        except TimeoutError:
            values.append(await asyncio.wait_for(napping(ctx, 2, "no limit"), None))
        return values

    world = World(waiting)
    assert unwrap(world.play()) == ["in time", "no limit"]
    assert sorted(world.journal) == ["1", "2", "3", "4", "5"]  # a timer and a nap, twice, and a nap
    assert play(waiting) == ["in time", "no limit"]


async def test_wait_for_is_as_ever_outside_of_workflows() -> None:
    async def value() -> int:
        await asyncio.sleep(0)
        return 1

    assert await asyncio.wait_for(value(), 5) == 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 0.001)


def test_wait_with_a_timeout_leaves_what_is_late_running() -> None:
    async def waiting(ctx: Context) -> list[Any]:
        tasks = [asyncio.create_task(napping(ctx, n, n)) for n in (1, 2, 30)]
        done, late = await asyncio.wait(tasks, timeout=5)
        return [len(done), len(late), await tasks[2]]

    world = World(waiting)
    assert unwrap(world.play()) == [2, 1, 30]
    assert world.now_ms - world.info.created_ms == 30_000
    assert play(waiting) == [2, 1, 30]


@pytest.mark.parametrize(
    ("return_when", "expected"),
    [
        (asyncio.FIRST_COMPLETED, [[0], [1, 2]]),
        (asyncio.FIRST_EXCEPTION, [[0, 1], [2]]),
        (asyncio.ALL_COMPLETED, [[0, 1, 2], []]),
    ],
)
def test_wait_returns_when_it_is_told_to(return_when: Any, expected: list[list[int]]) -> None:
    async def failing(ctx: Context) -> None:
        await ctx.sleep(2)
        raise ValueError("no")

    async def waiting(ctx: Context) -> list[list[int]]:
        tasks = [asyncio.create_task(coro) for coro in (napping(ctx, 1, 0), failing(ctx), napping(ctx, 3, 2))]
        found = await asyncio.wait(tasks, return_when=return_when)
        return [sorted(tasks.index(task) for task in part) for part in found]

    assert play(waiting) == expected


def test_waiting_for_the_first_completed_has_the_same_winner_live_and_in_replay() -> None:
    async def racing(ctx: Context) -> list[int]:
        naps = {asyncio.create_task(napping(ctx, 3 - n, n)) for n in range(3)}
        order: list[int] = []
        while naps:
            done, naps = await asyncio.wait(naps, return_when=asyncio.FIRST_COMPLETED)
            order.extend(task.result() for task in done)
            if len(order) == 2:
                await ctx.sleep(1, name="pause")
        return order

    assert play(racing) == [2, 1, 0]


def test_two_settlements_found_together_are_still_delivered_one_at_a_time() -> None:
    async def racing(ctx: Context) -> list[int]:
        waits = [asyncio.create_task(napping(ctx, 1, n)) for n in range(2)]
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return [task.result() for task in done]

    world = World(racing)
    world.activate()
    world.close()
    world.step_time()
    world.step_time()  # both timers have fired before anybody looks
    assert unwrap(world.activate()) == [0]
    world.close()


def test_as_completed_over_bare_coroutines_starts_them_in_the_order_given() -> None:
    async def completing(ctx: Context) -> list[int]:
        coros = [napping(ctx, 20 - n, n) for n in range(20)]
        return [await first for first in asyncio.as_completed(coros)]

    world = World(completing)
    world.activate()
    assert [world.journal[Number(f"{n + 1}.1")].due_ms - world.now_ms for n in range(20)] == [
        (20 - n) * 1000 for n in range(20)
    ]
    world.close()
    assert play(completing) == list(reversed(range(20)))


def test_as_completed_is_ordered_however_it_was_imported() -> None:
    async def completing(ctx: Context) -> list[int]:
        return [await first for first in as_completed_by_name([napping(ctx, 20 - n, n) for n in range(20)])]

    world = World(completing)
    world.activate()
    assert world.journal[Number("1.1")].due_ms - world.now_ms == 20_000
    world.close()
    assert play(completing) == list(reversed(range(20)))


async def test_as_completed_is_as_ever_outside_of_workflows() -> None:
    async def value(n: int) -> int:
        await asyncio.sleep(0)
        return n

    assert sorted([await first for first in asyncio.as_completed([value(n) for n in range(3)])]) == [0, 1, 2]
    with pytest.raises(TypeError):
        list(asyncio.as_completed(asyncio.ensure_future(value(1))))  # pyright: ignore[reportArgumentType, reportUnknownArgumentType]


def test_sets_of_tasks_futures_and_gathers_are_iterated_in_the_order_of_the_program() -> None:
    async def setting(ctx: Context) -> list[list[int]]:
        async def nothing() -> None:
            return

        tasks = [asyncio.create_task(nothing()) for _ in range(30)]
        futures = [asyncio.get_running_loop().create_future() for _ in range(30)]
        gathers = [asyncio.gather(nothing()) for _ in range(30)]
        task_set, future_set, gather_set = set(tasks), set(futures), set(gathers)
        await asyncio.wait(gathers)
        return [
            [tasks.index(task) for task in task_set],
            [futures.index(future) for future in future_set],
            [gathers.index(gather) for gather in gather_set],
        ]

    orders = [unwrap(World(setting).play()) for _ in range(5)]
    assert all(order == orders[0] for order in orders)


def test_queue_event_lock_semaphore_and_condition_work() -> None:
    async def building(ctx: Context) -> list[Any]:
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
        event, lock, slots = asyncio.Event(), asyncio.Lock(), asyncio.Semaphore(2)
        condition = asyncio.Condition()
        log: list[Any] = []

        async def producer() -> None:
            for n in range(3):
                await ctx.sleep(1)
                await queue.put(n)
            event.set()
            async with condition:
                condition.notify_all()

        async def holder(n: int) -> None:
            async with slots, lock:
                await ctx.sleep(1)
                log.append(f"held {n}")

        async with asyncio.TaskGroup() as group:
            group.create_task(producer())
            for n in range(3):
                group.create_task(holder(n))
            for _ in range(3):
                log.append(await queue.get())  # noqa: PERF401 - others append meanwhile
            await event.wait()
            async with condition:
                await condition.wait_for(event.is_set)
        return log

    log = play(building)
    assert [entry for entry in log if isinstance(entry, int)] == [0, 1, 2]
    assert [entry for entry in log if isinstance(entry, str)] == ["held 0", "held 1", "held 2"]


def test_sets_of_one_branch_keep_their_order_when_another_branch_makes_more() -> None:
    async def branching(ctx: Context, more: int) -> list[int]:
        async def other() -> None:
            await asyncio.gather(*(napping(ctx, 1, n) for n in range(more)))

        async def branch() -> list[int]:
            await ctx.sleep(1)
            tasks = [asyncio.create_task(napping(ctx, 1, n)) for n in range(20)]
            done, _ = await asyncio.wait(tasks)
            return [tasks.index(task) for task in done]

        return (await asyncio.gather(other(), branch()))[1]

    orders = [unwrap(World(branching, more).play()) for more in range(6)]
    assert all(order == orders[0] for order in orders)


def test_all_tasks_are_those_of_the_workflow_in_one_order() -> None:
    async def looking(ctx: Context) -> list[int]:
        async def branch(n: int) -> None:
            await asyncio.gather(ctx.sleep(1), napping(ctx, 1, n))

        tasks = [asyncio.create_task(branch(n)) for n in range(20)]
        await ctx.sleep(0)
        me = asyncio.current_task()
        found = asyncio.all_tasks()
        assert me in found
        assert len(found) == 41
        return [tasks.index(task) for task in found if task in tasks]

    orders = [unwrap(World(looking).play()) for _ in range(5)]
    assert sorted(orders[0]) == list(range(20))
    assert all(order == orders[0] for order in orders)


async def test_all_tasks_is_as_ever_outside_of_workflows() -> None:
    assert asyncio.current_task() in asyncio.all_tasks()


def test_queues_of_every_kind_keep_their_order_and_can_be_joined() -> None:
    async def queueing(ctx: Context, kind: int) -> list[int]:
        queue: asyncio.Queue[int] = [asyncio.Queue, asyncio.LifoQueue, asyncio.PriorityQueue][kind]()
        log: list[int] = []

        async def work() -> None:
            while True:
                log.append(await queue.get())
                await ctx.sleep(1)
                queue.task_done()

        for n in (2, 1, 3):
            queue.put_nowait(n)
        worker = asyncio.create_task(work())
        await queue.join()
        worker.cancel()
        return log

    assert [play(queueing, kind) for kind in range(3)] == [[2, 1, 3], [3, 1, 2], [1, 2, 3]]


def test_a_barrier_opens_when_all_have_come() -> None:
    async def meeting(ctx: Context) -> list[str]:
        barrier = asyncio.Barrier(3)
        log: list[str] = []

        async def come(n: int) -> None:
            await ctx.sleep(n)
            log.append(f"{n} comes")
            async with barrier:
                log.append(f"{n} goes")

        await asyncio.gather(*map(come, (2, 1, 3)))
        return log

    assert play(meeting) == ["1 comes", "2 comes", "3 comes", "3 goes", "1 goes", "2 goes"]


def test_a_semaphore_lets_in_as_many_as_it_has_places() -> None:
    async def limiting(ctx: Context) -> list[int]:
        slots, inside, seen = asyncio.BoundedSemaphore(2), list[int](), list[int]()

        async def visit(n: int) -> None:
            async with slots:
                inside.append(n)
                seen.append(len(inside))
                await ctx.sleep(1 + n % 2)
                inside.remove(n)

        await asyncio.gather(*map(visit, range(6)))
        with pytest.raises(ValueError, match="released too many times"):
            slots.release()
        return seen

    assert max(play(limiting)) == 2


def test_a_task_is_canceled_at_its_await_with_its_message_and_may_take_it_back() -> None:
    async def canceling(ctx: Context) -> list[Any]:
        log: list[Any] = []

        async def survivor() -> str:
            try:
                await ctx.promise()
            except asyncio.CancelledError as error:
                me = asyncio.current_task()
                assert me
                log.extend([str(error), me.cancelling(), me.uncancel()])
            await ctx.sleep(1)
            return "alive"

        task = asyncio.create_task(survivor(), name="survivor")
        await ctx.sleep(1)
        assert task.cancel("enough")
        log.extend([await task, task.cancelled(), task.get_name()])
        unborn = asyncio.create_task(survivor())
        unborn.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unborn
        return log

    world = World(canceling)
    assert unwrap(world.play()) == ["enough", 1, 0, "alive", False, "survivor"]
    assert world.journal[Number("1.1")].state is State.CANCELED
    assert play(canceling) == ["enough", 1, 0, "alive", False, "survivor"]


def test_canceling_a_gather_cancels_what_it_gathers() -> None:
    async def canceling(ctx: Context) -> str:
        gathered = asyncio.gather(ctx.sleep(100), ctx.rpc("ship"), napping(ctx, 100, 1))
        await ctx.sleep(1)
        gathered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathered
        await ctx.sleep(1)
        return "done"

    world = World(canceling)
    assert unwrap(world.play()) == "done"
    states = {number: entry.state for number, entry in world.journal.items()}
    assert [states[Number(number)] for number in ("1", "2", "3.1")] == [State.CANCELED] * 3
    assert play(canceling) == "done"


def test_a_shielded_call_is_not_taken_back() -> None:
    async def shielding(ctx: Context) -> str:
        promise = ctx.promise()
        try:
            await asyncio.wait_for(asyncio.shield(promise), 5)
        except TimeoutError:
            return await promise
        return "early"

    assert play(shielding, script={"1": (9000, State.RESOLVED, "late")}) == "late"


def test_async_generators_left_open_are_closed_on_the_private_loop() -> None:
    closed: list[str] = []

    async def generating(ctx: Context) -> str:
        async def numbers() -> AsyncIterator[int]:
            try:
                for n in range(10):
                    await ctx.sleep(1)
                    yield n
            finally:
                closed.append("early" if ctx.evicting else "in order")

        async for n in numbers():
            if n == 1:
                break
        await ctx.sleep(1)
        return "done"

    world = World(generating, keep=True)
    assert unwrap(world.play()) == "done"
    assert closed == ["in order"]
    closed.clear()
    world = World(generating)
    world.activate()
    world.close()
    assert closed == ["early"]
    assert play(generating) == "done"


NO_SOCKET: Any = None
IS_WASM = sys.platform == "emscripten"


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: asyncio.open_connection("127.0.0.1", 1),
        lambda: asyncio.start_server(print, "127.0.0.1", 0),
        pytest.param(
            lambda: asyncio.open_unix_connection("/nowhere"),
            marks=pytest.mark.skipif(IS_WASM, reason="WebAssembly has no Unix sockets"),
        ),
        lambda: asyncio.to_thread(print),
        lambda: asyncio.create_subprocess_exec("true"),
        lambda: asyncio.create_subprocess_shell("true"),
        lambda: _loop().run_in_executor(None, print),
        lambda: _loop().getaddrinfo("localhost", 80),
        lambda: _loop().add_reader(0, print),
        lambda: _loop().add_writer(1, print),
        lambda: _loop().sock_recv(NO_SOCKET, 1),
        lambda: _loop().create_datagram_endpoint(asyncio.DatagramProtocol),
        lambda: _loop().connect_read_pipe(asyncio.Protocol, sys.stdin),
        lambda: _loop().add_signal_handler(1, print),
        lambda: _loop().run_until_complete(_loop().create_future()),
        lambda: _loop().run_forever(),
        lambda: _loop().stop(),
    ],
)
def test_io_threads_processes_and_signals_are_refused_with_the_way_out(attempt: Any) -> None:
    async def reaching_out(ctx: Context) -> None:
        await attempt()

    outcome = World(reaching_out).play().outcome
    assert isinstance(outcome, Rejected)
    assert outcome.text.startswith("NotDurable")
    assert "await ctx.run(" in outcome.text


def test_what_libraries_ask_of_a_loop_is_answered() -> None:
    async def asking(ctx: Context) -> list[Any]:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.set_task_factory(None)
        heard: list[str] = []
        loop.call_soon_threadsafe(heard.append, "called")
        assert not loop.is_closed()
        await asyncio.sleep(0)
        await loop.shutdown_default_executor()
        return [heard, loop.get_debug(), loop.get_task_factory(), loop.get_exception_handler(), loop.is_running()]

    assert play(asking) == [["called"], False, None, None, True]


def test_a_task_factory_is_refused() -> None:
    async def making(ctx: Context) -> None:
        factory: Any = asyncio.Task
        asyncio.get_running_loop().set_task_factory(factory)

    assert "takes only None" in unwrap(World(making).play())[1]


def test_an_exception_handler_hears_of_the_same_errors_in_every_run(caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        raise ValueError("in a task")

    async def handling(ctx: Context) -> list[Any]:
        loop = asyncio.get_running_loop()
        heard: list[Any] = []

        def listen(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            heard.append(context.get("exception", context["message"]))
            if len(heard) == 2:
                raise LookupError("in the handler")

        loop.set_exception_handler(listen)
        assert loop.get_exception_handler() is listen
        loop.call_soon(int, "x")
        asyncio.ensure_future(failing())  # noqa: RUF006 - nobody awaits it
        await ctx.sleep(1)
        loop.call_exception_handler({"message": "said"})
        await ctx.sleep(1)
        loop.set_exception_handler(None)
        loop.call_exception_handler({"message": "said at last"})
        return [str(one) for one in heard]

    assert play(handling) == ["invalid literal for int() with base 10: 'x'", "said"]
    assert "LookupError: in the handler" in caplog.text
    assert "said at last" in caplog.text
    assert "ValueError: in a task" in caplog.text


def test_async_generators_are_shut_down_when_asked_to() -> None:
    async def generating(ctx: Context) -> list[Any]:
        async def numbers(name: str) -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                await ctx.sleep(1)
                closed.append(name)

        closed: list[str] = []
        left = [numbers("first"), numbers("second")]
        began = [await anext(one) for one in left]
        await asyncio.get_running_loop().shutdown_asyncgens()
        return [began, closed]

    assert play(generating) == [[1, 1], ["first", "second"]]


@pytest.mark.parametrize("way", ["in a thread", "given up", "in a group", "a path", "a file"])
def test_threads_of_anyio_are_refused_before_they_start(way: str) -> None:
    anyio: Any = pytest.importorskip("anyio")
    ran: list[int] = []

    async def reaching_out(ctx: Context) -> None:
        before = threading.active_count()
        try:
            match way:
                case "in a thread":
                    await anyio.to_thread.run_sync(ran.append, 1)
                case "given up":
                    with anyio.fail_after(5):
                        await anyio.to_thread.run_sync(ran.append, 1, abandon_on_cancel=True)
                case "in a group":
                    async with anyio.create_task_group() as group:
                        group.start_soon(anyio.to_thread.run_sync, ran.append, 1)
                case "a path":
                    await anyio.Path("/").exists()
                case _:
                    await anyio.open_file(__file__)
        finally:
            assert threading.active_count() == before

    outcome = World(reaching_out).play().outcome
    assert isinstance(outcome, Rejected)
    assert b"NotDurable" in outcome.payload
    assert b"await ctx.run(" in outcome.payload
    assert not ran


@pytest.mark.skipif(IS_WASM, reason="WebAssembly has no threads")
def test_a_workflow_that_waits_for_a_thread_is_halted_and_says_so() -> None:
    opened = threading.Event()

    threads = ThreadPoolExecutor(1)

    async def waiting(ctx: Context) -> None:
        await asyncio.wrap_future(threads.submit(opened.wait))

    with threads:
        outcome = World(waiting).play().outcome
        opened.set()
    assert isinstance(outcome, Halted)
    assert "a thread cannot wake a workflow" in outcome.reason


@pytest.mark.skipif(IS_WASM, reason="WebAssembly has no threads")
def test_a_thread_cannot_call_into_a_workflow() -> None:
    async def letting_in(ctx: Context) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as threads:
            threads.submit(loop.call_soon_threadsafe, print).result()

    assert "was called from a thread" in unwrap(World(letting_in).play())[1]


def test_task_groups_scopes_and_streams_of_anyio_are_durable() -> None:
    anyio: Any = pytest.importorskip("anyio")

    async def grouping(ctx: Context) -> list[Any]:
        seen: list[Any] = []

        async def one(seconds: int) -> None:
            await anyio.sleep(seconds)
            seen.append(seconds)

        async def serve(*, task_status: Any) -> None:
            task_status.started("up")
            await ctx.sleep(1000)

        async def produce(stream: Any) -> None:
            async with stream:
                for number in range(2):
                    await ctx.sleep(1)
                    await stream.send(number)

        async def failing() -> None:
            await ctx.sleep(1)
            raise ValueError("no")

        async with anyio.create_task_group() as group:
            group.start_soon(one, 2)
            group.start_soon(one, 1)
        with anyio.move_on_after(3) as scope:
            with anyio.CancelScope(shield=True):
                await ctx.sleep(5)
            await ctx.sleep(60)
        seen.append(scope.cancelled_caught)
        async with anyio.create_task_group() as group:
            seen.append(await group.start(serve))
            group.cancel_scope.cancel()
        sending, receiving = anyio.create_memory_object_stream(1)
        async with anyio.create_task_group() as group, receiving:
            group.start_soon(produce, sending)
            seen.extend([number async for number in receiving])
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(failing)
                group.start_soon(one, 1000)
        except ExceptionGroup as error:
            seen.append(repr(error.exceptions[0]))
        with anyio.fail_after(7):
            await ctx.promise()
        return seen

    world = World(grouping)
    assert unwrap(world.play())[1].startswith("TimeoutError")
    assert world.now_ms - world.info.created_ms == (2 + 5 + 2 + 1 + 7) * 1000

    async def without_the_end(ctx: Context) -> list[Any]:
        try:
            return await grouping(ctx)
        except TimeoutError:
            return ["timed out"]

    assert play(without_the_end) == ["timed out"]


def test_tenacity_waits_durably() -> None:
    tenacity: Any = pytest.importorskip("tenacity")

    async def retrying(ctx: Context) -> list[Any]:
        begun = ctx.now()
        tries: list[float] = []

        @tenacity.retry(stop=tenacity.stop_after_attempt(4), wait=tenacity.wait_exponential(max=30), reraise=True)
        async def attempt() -> None:
            tries.append((ctx.now() - begun).total_seconds())
            await ctx.sleep(10)
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await attempt()
        async for one in tenacity.AsyncRetrying(wait=tenacity.wait_fixed(3600)):
            with one:
                tries.append((ctx.now() - begun).total_seconds())
                assert len(tries) == 6
        return tries

    assert play(retrying) == [0.0, 11.0, 23.0, 37.0, 47.0, 3647.0]


@pytest.mark.parametrize("run", [asyncio.run, lambda main: asyncio.Runner().run(main)])  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
def test_a_loop_of_its_own_is_refused_by_asyncio_itself(run: Any) -> None:
    async def nesting(ctx: Context) -> None:
        nested = asyncio.sleep(0)
        try:
            run(nested)
        finally:
            nested.close()

    outcome = World(nesting).play().outcome
    assert isinstance(outcome, Rejected)
    assert "cannot be called from a running event loop" in outcome.text


def test_a_lock_shared_by_two_workflows_is_explained() -> None:
    shared = asyncio.Queue[int]()

    async def sharing(ctx: Context) -> int:
        return await shared.get()

    first, second = World(sharing), World(sharing)
    assert isinstance(first.activate().outcome, Halted)  # nobody can fill it
    outcome = second.activate().outcome
    assert isinstance(outcome, Rejected)
    assert "make it inside" in outcome.text
    first.close()
    second.close()


def test_a_drain_that_never_blocks_is_halted() -> None:
    async def spinning(ctx: Context) -> None:
        while True:  # noqa: ASYNC110 - the mistake
            await asyncio.sleep(0)

    world = World(spinning)
    outcome = world.activate().outcome
    assert isinstance(outcome, Halted)
    assert "100,000 callbacks" in outcome.reason
    assert "in test_a_drain_that_never_blocks_is_halted.<locals>.spinning" in outcome.reason
    world.close()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["root", "child"])
def test_an_exit_in_user_code_fails_the_execution_and_nothing_else(error: type[BaseException], where: str) -> None:
    async def leaving(ctx: Context) -> None:
        async def leave() -> None:
            raise error(3)

        if where == "root":
            await leave()
        await asyncio.gather(leave(), ctx.sleep(1))

    outcome = World(leaving).play().outcome
    assert isinstance(outcome, Rejected)
    assert outcome.text == f"{error.__name__}: 3"


async def test_the_running_loop_of_the_worker_is_restored() -> None:
    async def sleeper(ctx: Context) -> str:
        await ctx.sleep(1)
        return "slept"

    loop = asyncio.get_running_loop()
    driven: asyncio.Future[Any] = loop.create_future()

    def drive() -> None:
        driven.set_result((play(sleeper), asyncio.get_running_loop() is loop))

    hooks = sys.get_asyncgen_hooks()
    loop.call_soon(drive)
    assert await driven == ("slept", True)
    assert sys.get_asyncgen_hooks() == hooks


@pytest.mark.skipif(
    (3, 12) <= sys.version_info < (3, 13), reason="a TaskGroup of Python 3.12 forgets who was canceled: gh-116720"
)
def test_wait_for_around_a_task_group_that_is_tried_again_ends_in_a_timeout() -> None:
    async def fail() -> None:
        await asyncio.sleep(1)
        raise ValueError

    async def persist() -> None:
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())
                    group.create_task(fail())
            except* ValueError:
                await asyncio.sleep(1)

    async def waiting(ctx: Context) -> list[str]:
        ends: list[str] = []
        for timeout in (3, 4.5):
            try:
                await asyncio.wait_for(persist(), timeout)
            except TimeoutError:
                ends.append("timeout")
        task = asyncio.create_task(asyncio.wait_for(persist(), 60))
        await asyncio.sleep(5)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            ends.append("canceled")
        return ends

    assert play(waiting) == ["timeout", "timeout", "canceled"]
