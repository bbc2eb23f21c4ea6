"""Sync functions have threads, which cannot be stopped: calls that wait for a thread, and threads that are lost."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from durasleep import Canceled, Context, Durasleep, ThreadsLost, Worker
from durasleep.app import EXIT_RESTART
from durasleep.settings import DEFAULTS
from durasleep.worker.execution.loop_threads import LoopCall, LoopThreads
from tests.service.fixtures import NewApp
from tests.service.functions import gate_of, note, stand_at, stand_in_thread_at
from tests.service.workers import LOOK_S, Effects, Workers, eventually, serving, until

TIMEOUT_S = 0.2


@pytest.fixture(autouse=True)
def all_gates(effects: Effects) -> Iterator[None]:
    """No thread is left running."""
    yield
    for gate in ("one", "two", "held"):
        effects.open(gate)


def add_functions(app: Durasleep, effects: Effects) -> None:
    @app.task
    def in_thread(gate: str) -> str:
        return stand_in_thread_at(effects.path, gate)

    @app.task
    async def in_loop(gate: str) -> str:
        return await stand_at(effects.path, gate)

    @app.workflow
    async def impatient(ctx: Context, gate: str) -> str:
        try:
            return await ctx.run(in_thread, gate, timeout=TIMEOUT_S)
        except TimeoutError as error:
            return str(error)

    assert impatient


async def test_the_time_of_a_step_begins_with_its_thread(app: Durasleep, effects: Effects) -> None:
    async def open_later() -> None:
        await effects.standing("one")
        await asyncio.sleep(3 * TIMEOUT_S)
        effects.open("one")

    def quick(number: int) -> int:
        note(effects.path, f"quick {number}")
        return number

    @app.workflow
    async def crowded(ctx: Context) -> list[int]:
        held = asyncio.ensure_future(ctx.run(stand_in_thread_at, effects.path, "one"))
        opened = asyncio.ensure_future(ctx.run(open_later))
        found = await asyncio.gather(*[ctx.run(quick, number, timeout=TIMEOUT_S) for number in range(5)])
        await asyncio.gather(held, opened)
        return found

    async with serving(app, concurrency=1):
        assert await (await app.rpc("crowded", crowded)).result(timeout=20) == list(range(5))
    assert effects.count("quick") == 5


@pytest.mark.parametrize("how", ["its timeout", "its cancel"])
async def test_a_thread_that_nobody_waits_for_any_more_is_one_less_until_it_is_back(
    app: Durasleep, effects: Effects, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.INFO, logger="durasleep")
    add_functions(app, effects)
    async with serving(app, concurrency=2) as worker:
        if how == "its timeout":
            late = await (await app.rpc("late", "impatient", "one")).result(timeout=20)
            assert late == "in_thread took longer than 0.2 s"
        else:
            handle = await app.rpc("late", "in_thread", "one")
            await effects.standing("one")
            assert await handle.cancel() == "canceling"
            with pytest.raises(Canceled):
                await handle.result(timeout=20)
        await eventually(lambda: "1 of 2 threads are lost" in caplog.text, "a line about it")
        assert "cannot be stopped: in_thread for " in caplog.text
        held = [await app.rpc(f"held-{number}", "in_loop", "held") for number in range(2)]
        await effects.standing("held")
        assert worker.running == 1
        assert sorted([(await app.describe(one.id)).status for one in held]) == ["queued", "running"]
        effects.open("one")
        await effects.standing("held", times=2)
        assert "is back after" in caplog.text
        effects.open("held")
        assert await app.gather(held) == ["through held"] * 2


async def test_who_has_lost_all_threads_leaves_its_work_to_others_and_asks_for_a_new_start(
    new_app: NewApp, effects: Effects, caplog: pytest.LogCaptureFixture
) -> None:
    app = new_app(settings=replace(DEFAULTS, threads_lost_s=0.5))
    add_functions(app, effects)

    @app.workflow
    async def once_more(ctx: Context) -> str:
        """Its second step waits for a thread, and gets none."""
        try:
            await ctx.run(stand_in_thread_at, effects.path, "one", timeout=TIMEOUT_S)
        except TimeoutError:
            await ctx.run(note, effects.path, "another step")
        return "done"

    worker = app.worker(name="used-up", concurrency=1)
    running = asyncio.create_task(worker.run())
    handles = [await app.rpc("first", once_more), await app.rpc("behind", "note", effects.path, "another task")]
    with pytest.raises(ThreadsLost, match="used-up has left its work to others"):
        await asyncio.wait_for(running, 20)
    assert effects.count("another") == 0
    assert "its process must be started again" in caplog.text
    async with serving(app, "other"):
        assert await app.gather(handles) == ["done", None]
    assert sorted(effects.lines()[1:]) == ["another step", "another task"]


def hold_up_until_returned(worker: Worker) -> None:
    """Wait until no call in a thread runs; the loop does nothing meanwhile."""
    while worker.in_threads:
        time.sleep(LOOK_S)


async def test_what_waits_for_a_thread_when_its_worker_leaves_is_begun_by_another(
    app: Durasleep, effects: Effects
) -> None:
    @app.workflow
    async def two(ctx: Context) -> list[str]:
        steps = [ctx.run(stand_in_thread_at, effects.path, gate) for gate in ("one", "two")]
        return list(await asyncio.gather(*steps))

    handle = await app.rpc("two", two)
    async with serving(app, "w1", concurrency=1) as worker:
        await effects.standing("one")
        worker.stop()
        effects.open("one")
        hold_up_until_returned(worker)  # the thread is free before its worker has noticed it
        await eventually(lambda: not worker.running, "the first to be let go of")
    assert (await until(app, "two", "queued")).status == "queued"
    assert not effects.count("two")
    gate_of(effects.path, "two").touch()
    async with serving(app, "w2", concurrency=1):
        assert await handle.result(timeout=20) == ["through one", "through two"]
    assert effects.count("one") == 1


async def test_threads_of_the_loop_that_nobody_waits_for_any_more_are_counted_and_keep_nobody(
    app: Durasleep, workers: Workers
) -> None:
    """More than asyncio has by itself: others get theirs all the same, and one SIGTERM ends the process."""
    worker = await workers.begin("w1", "--concurrency", "40", app="leaving_app").ready()
    stuck = [await app.rpc(f"stuck-{number}", "sleep_in_thread_of_loop", 600) for number in range(36)]
    for error in await app.gather(stuck, return_exceptions=True):
        assert "sleep_in_thread_of_loop took longer than 0.5 s" in str(error)
    quick = [await app.rpc(f"quick-{number}", "double_in_thread_of_loop", number) for number in range(36)]
    assert await app.gather(quick) == [2 * number for number in range(36)]
    assert "sleep for " in await worker.line("36 of 40 threads are lost")

    async def is_said() -> bool:
        return any("worker w1 has lost 36 threads " in one.text for one in await app.diagnose())

    await eventually(is_said, "the doctor to know")
    worker.signal(signal.SIGTERM)
    assert await worker.exited() == 0


async def test_a_thread_of_the_loop_counts_again_once_it_is_back(
    app: Durasleep, workers: Workers, effects: Effects
) -> None:
    worker = await workers.begin("w1", "--concurrency", "2", app="leaving_app").ready()
    with pytest.raises(TimeoutError):
        await (await app.rpc("late", "stand_in_thread_of_loop", effects.path, "one")).result(timeout=20)
    await worker.line("1 of 2 threads are lost to .*: stand_in_thread_at for ")
    effects.open("one")
    await worker.line("the thread of stand_in_thread_at is back after .*: 0 of 2 threads are lost")


async def test_who_has_lost_all_threads_to_calls_of_its_loop_asks_for_a_new_start(
    app: Durasleep, workers: Workers
) -> None:
    worker = await workers.begin("used-up", "--concurrency", "2", app="leaving_app").ready()
    for number in range(2):
        await app.rpc(f"stuck-{number}", "sleep_in_thread_of_loop", 600)
    await worker.line("2 of 2 threads are lost")
    behind = await app.rpc("behind", "double_in_thread_of_loop", 1)
    assert await worker.exited() == EXIT_RESTART
    await workers.start("other", app="leaving_app")
    assert await behind == 2


async def test_what_is_given_up_before_its_turn_holds_up_nobody_and_is_not_lost() -> None:
    lost: list[LoopCall] = []
    threads = LoopThreads(1, 1, on_lost=lost.append, on_back=lost.remove)
    opened = threading.Event()
    held = threads.submit(opened.wait)
    given_up, last = threads.submit(int, "1"), threads.submit(int, "2")
    assert given_up.cancel()
    assert not lost
    opened.set()
    assert await asyncio.wait_for(asyncio.wrap_future(last), 20) == 2
    assert held.result()
    threads.shutdown()


async def test_a_worker_leaves_though_no_thread_of_the_loop_is_left(app: Durasleep, effects: Effects) -> None:
    """``asyncio.to_thread`` of user code has its own threads, and loses them as well."""

    @app.task(timeout=TIMEOUT_S)
    async def in_thread_of_loop() -> None:
        await asyncio.to_thread(stand_in_thread_at, effects.path, "one")

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    async with app.serving():
        with pytest.raises(TimeoutError):
            await (await app.rpc("stuck", in_thread_of_loop)).result(timeout=20)
    assert not gate_of(effects.path, "one").exists()
