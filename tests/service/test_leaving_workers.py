"""Workers that are told to leave, paused, or kept busy: SIGTERM once and twice, SIGSTOP, a blocked event loop."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from durasleep import Durasleep
from durasleep.client.client import store_of
from durasleep.model import PromiseId
from durasleep.settings import DEFAULTS
from durasleep.worker.execution.executor import Executor
from harness.servers import Server
from tests.service.functions import loop_passage, nap, passage, sleeping_workflow, thread_passage
from tests.service.workers import Effects, Workers, eventually, until


async def test_sigterm_lets_running_steps_finish_and_leaves_sleepers_alone(
    app: Durasleep, workers: Workers, effects: Effects, real_server: Server
) -> None:
    [leaving] = await workers.start("leaving")
    store = await store_of(app)
    await app.rpc("sleeper", sleeping_workflow, 3600)
    await until(app, "sleeper", "suspended")
    asleep = await store.load(PromiseId("sleeper"))
    handle = await app.rpc("passage", passage, effects.path)
    await effects.standing("gate")

    leaving.signal(signal.SIGTERM)
    await leaving.line("is leaving: 1 still running")
    late = await app.rpc("late", nap, effects.path, 0)
    effects.open("gate")
    assert await leaving.exited() == 0
    assert (await app.describe("late")).status == "queued"
    assert (await app.describe("passage")).status == "queued"
    assert await app.workers() == []
    assert await store.load(PromiseId("sleeper")) == asleep

    await workers.start("next")
    assert await handle == "through gate"
    await late
    assert effects.count("gate") == effects.count("passage comes") == effects.count("passage goes") == 1
    assert await store.load(PromiseId("sleeper")) == asleep


async def test_a_second_sigterm_leaves_at_once_and_another_worker_takes_over(
    app: Durasleep, workers: Workers, effects: Effects
) -> None:
    """Steps that do not end, as a coroutine and as a thread, keep no process: their executions are released."""
    [leaving] = await workers.start("leaving")
    handles = [
        await app.rpc("in-loop", passage, effects.path, "loop-gate"),
        await app.rpc("in-thread", thread_passage, effects.path, "thread-gate"),
    ]
    await effects.standing("loop-gate")
    await effects.standing("thread-gate")
    leaving.signal(signal.SIGTERM)
    await leaving.line("is leaving: 2 still running")
    leaving.signal(signal.SIGTERM)
    await leaving.exited()
    store = await store_of(app)
    for id in ("in-loop", "in-thread"):
        assert (await app.describe(id)).status == "queued"
        loaded = await store.load(PromiseId(id))
        assert loaded
        assert loaded.record.crash_count == 0, "leaving is not dying"

    await workers.start("next")
    for gate in ("loop-gate", "thread-gate"):
        (first, _), (second, _) = await effects.standing(gate, times=2)
        assert first == leaving.pid != second
        effects.open(gate)
    assert [await handle for handle in handles] == ["through loop-gate", "through thread-gate"]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("a task that swallows its cancels", r"the task left-behind at .*functions\.py:\d+ in swallow_cancels$"),
        ("a thread", "the thread left-behind at "),
    ],
)
async def test_what_user_code_leaves_behind_and_does_not_end_is_named_and_keeps_no_process(
    app: Durasleep, workers: Workers, effects: Effects, where: str, said: str
) -> None:
    [leaving] = await workers.start("leaving", app="leaving_app")
    await (await app.rpc("leaves", "leave_behind", effects.path, where))
    leaving.signal(signal.SIGTERM)
    assert await leaving.exited() == 0
    await leaving.line(f"process of worker leaving ends now, and waits no longer .*: {said}")
    assert leaving.log().count("left-behind") == 1


async def test_a_step_that_swallows_its_cancels_is_given_back_and_keeps_no_process(
    app: Durasleep, workers: Workers, effects: Effects
) -> None:
    [leaving] = await workers.start("leaving", app="leaving_app")
    handle = await app.rpc("stubborn", "swallow_cancels", effects.path)
    await eventually(lambda: effects.count("swallows"), "its code to run")
    leaving.signal(signal.SIGTERM)
    assert await leaving.exited() == 0
    await leaving.line("ends now, and waits no longer .*: the task durasleep:stubborn at ")
    assert (await app.describe(handle.id)).status == "queued"


async def test_what_user_code_leaves_behind_may_end_within_the_grace_time(
    app: Durasleep, workers: Workers, effects: Effects
) -> None:
    """Its task is cancelled; the thread that did its work goes on to its end."""
    [leaving] = await workers.start("leaving")
    await (await app.rpc("leaves", "leave_behind", effects.path, "a task that works in a thread"))
    await effects.standing("gate")
    leaving.signal(signal.SIGTERM)
    await leaving.line("leaving has left")
    effects.open("gate")
    assert await leaving.exited() == 0
    assert effects.count("the work is done") == 1
    assert "ends now, and waits no longer" not in leaving.log()


async def test_a_paused_worker_finds_itself_fenced(app: Durasleep, workers: Workers, effects: Effects) -> None:
    paused, other = await workers.start("one", "two")
    handle = await app.rpc("passage", passage, effects.path)
    [(pid, _)] = await effects.standing("gate")
    if pid == other.pid:
        paused, other = other, paused
    paused.signal(signal.SIGSTOP)
    await effects.standing("gate", times=2)
    effects.open("gate")
    assert await handle == "through gate"
    assert effects.count("passage goes") == 1

    paused.signal(signal.SIGCONT)  # its step ends now, and its commit comes too late
    await paused.line("passage (was taken over|dropped)")
    assert await handle == "through gate"
    assert effects.count("passage goes") == 1
    # It is a worker like any other again.
    await other.kill()
    assert await (await app.rpc("nap", nap, effects.path, 0)) == "nap slept for 0 seconds"


async def test_a_blocked_event_loop_keeps_its_lease(
    app: Durasleep, workers: Workers, effects: Effects, real_server: Server, namespace: str
) -> None:
    """Longer than a worker may be silent: the heartbeat has a thread of its own."""
    client: Any = real_server.sync_client()
    beats = (await store_of(app)).keyspaces[0].workers
    await workers.start("one", "two")
    handle = await app.rpc("passage", loop_passage, effects.path)
    [(pid, _)] = await effects.standing("gate")
    holder = workers.of_pid(pid).name

    def beat_ms() -> float:
        rows = client.zrange(beats, 0, -1, withscores=True)
        return max(score for consumer, score in rows if consumer.decode().partition("/")[0] == holder)

    first_ms = beat_ms()
    silent_ms = (DEFAULTS.dead_after_s + DEFAULTS.heartbeat_s) * 1000
    await eventually(lambda: beat_ms() - first_ms > silent_ms, "beats of the blocked worker")
    assert (await app.describe("passage")).worker == holder
    effects.open("gate")
    assert await handle == "through gate"
    assert effects.count("gate") == 1


async def test_a_worker_leaves_while_what_it_held_has_just_ended(app: Durasleep, real_server: Server) -> None:
    """An ended execution is dropped in a callback, which must get a turn: since Python 3.12, gather gives it none."""
    executor = app.worker()._executor  # pyright: ignore[reportPrivateUsage]
    assert isinstance(executor, Executor)
    loading = executor._loading  # pyright: ignore[reportPrivateUsage]
    loaded: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
    loaded.add_done_callback(loading.discard)
    loading.add(loaded)
    loaded.set_result([])
    leaving = asyncio.create_task(executor.abort())  # runs next, before the callback
    await leaving
    assert not loading
