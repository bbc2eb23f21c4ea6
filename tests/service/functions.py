"""The functions that the workers of these tests run, in the test's own process or in one of their own.

The effect of a step is a line in a file outside Redis, so that its runs can be counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis

from durasleep import Context, Durasleep, Settings, checkpoint, current, progress
from durasleep.settings import DEFAULTS
from durasleep.transport.connector import AnyClient

NAMESPACE_VARIABLE = "DURASLEEP_NAMESPACE"

QUICK = Settings(heartbeat_s=0.25, dead_after_s=0.75, max_attempts=3)
"""Deaths are noticed in a fraction of a second; for tests in which a wrong death does no harm."""

SHARING = replace(QUICK, partition_workers_min=1, share_shrink_s=0.5)
"""The same, and a few workers share the partitions already."""


# -- steps


def note(effects: str, line: str) -> None:
    """One effect: a line, written whole."""
    with Path(effects).open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def gate_of(effects: str, name: str) -> Path:
    """The file that opens a gate when it appears."""
    return Path(f"{effects}.{name}.open")


async def stand_at(effects: str, gate: str) -> str:
    """A step that runs until its gate is opened; it writes its process id and when it began."""
    note(effects, f"{gate} pid={os.getpid()} at={time.time()}")
    opened = gate_of(effects, gate)
    while not opened.exists():  # noqa: ASYNC110 - the gate is opened by another process
        await asyncio.sleep(0.01)
    return f"through {gate}"


def stand_in_thread_at(effects: str, gate: str) -> str:
    """The same as a function that blocks its thread."""
    return block_at(effects, gate)


async def stand_in_loop_at(effects: str, gate: str) -> str:
    """The same, blocking the event loop of its worker, which nobody should do."""
    return block_at(effects, gate)


def block_at(effects: str, gate: str) -> str:
    note(effects, f"{gate} pid={os.getpid()} at={time.time()}")
    opened = gate_of(effects, gate)
    while not opened.exists():
        time.sleep(0.01)
    return f"through {gate}"


def server_time_us(url: str) -> int:
    """The server's clock, asked without durasleep."""
    with redis.Redis.from_url(url) as client:  # pyright: ignore[reportUnknownMemberType]
        seconds, micros = client.time()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType, reportGeneralTypeIssues]
        return int(seconds) * 1_000_000 + int(micros)  # pyright: ignore[reportUnknownArgumentType]


# -- workflows


async def sleeping_workflow(ctx: Context, secs: float) -> str:
    await ctx.sleep(secs)
    return f"Slept for {secs:g} seconds"


async def nap(ctx: Context, effects: str, secs: float) -> str:
    """A sleep between two steps."""
    await ctx.run(note, effects, f"{ctx.info.id} lies down")
    await ctx.sleep(secs)
    await ctx.run(note, effects, f"{ctx.info.id} gets up")
    return f"{ctx.info.id} slept for {secs:g} seconds"


async def passage(ctx: Context, effects: str, gate: str = "gate") -> str:
    """A step at a gate between two others."""
    await ctx.run(note, effects, f"{ctx.info.id} comes")
    passed = await ctx.run(stand_at, effects, gate)
    await ctx.run(note, effects, f"{ctx.info.id} goes")
    return passed


async def keep_and_stand(effects: str) -> Any:
    """A step that keeps something and stands at a gate; answers what it has found."""
    found = current().checkpoint
    checkpoint(7)
    await stand_at(effects, "gate")
    return found


async def keeping(ctx: Context, effects: str) -> Any:
    return await ctx.run(keep_and_stand, effects)


async def publish_and_stand(path: str) -> int:
    """Says that it stands, waits, and says that it is through."""
    progress(1, 2, "standing")
    await stand_at(path, "gate")
    progress(2, 2)
    return 2


async def publishing(ctx: Context, effects: str) -> int:
    ctx.publish(status="standing")
    done = await ctx.run(publish_and_stand, effects)
    ctx.publish(status="through")
    return done


async def thread_passage(ctx: Context, effects: str, gate: str = "gate") -> str:
    return await ctx.run(stand_in_thread_at, effects, gate)


async def loop_passage(ctx: Context, effects: str, gate: str = "gate") -> str:
    return await ctx.run(stand_in_loop_at, effects, gate)


async def measured_sleep(ctx: Context, url: str, secs: float) -> int:
    """How many microseconds a sleep took on the server's clock."""
    before = await ctx.run(server_time_us, url)
    await ctx.sleep(secs)
    return await ctx.run(server_time_us, url) - before


async def waiting(ctx: Context, secs: float | None = None) -> Any:
    """Waits for its promise ``~1`` to be settled from outside."""
    return await ctx.promise(timeout=secs)


async def counting(ctx: Context, key: str, times: int) -> list[int]:
    """Increments a counter this often, with short sleeps; returns the answer of each increment."""
    values: list[int] = []
    for _ in range(times):
        [value] = await ctx.transaction().incr(key)
        values.append(value)
        await ctx.sleep(0.02 * ctx.random())
    return values


async def gathering(ctx: Context, count: int) -> list[int]:
    """The results of this many children, in order."""
    return await asyncio.gather(*(ctx.rpc(double, number) for number in range(count)))


async def failing(ctx: Context, message: str) -> None:
    raise ValueError(message)


# -- tasks


async def double(number: int) -> int:
    return 2 * number


async def kill_own_process(effects: str) -> None:
    note(effects, "poison taken")
    os.kill(os.getpid(), signal.SIGKILL)


async def stand_in_thread_of_loop(effects: str, gate: str) -> str:
    """Waits at a gate in a thread of the event loop; with a ``timeout``, for half a second at most."""
    return await asyncio.to_thread(stand_in_thread_at, effects, gate)


async def sleep_in_thread_of_loop(secs: float) -> None:
    await asyncio.to_thread(time.sleep, secs)


async def double_in_thread_of_loop(number: int) -> int:
    return await asyncio.to_thread(lambda: 2 * number)


async def swallow_cancels(effects: str = "") -> None:
    if effects:
        note(effects, "swallows")
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(600)


async def leave_behind(effects: str, where: str) -> None:
    """What goes on after this."""
    match where:
        case "a task that swallows its cancels":
            LEFT.append(asyncio.create_task(swallow_cancels(), name="left-behind"))
        case "a thread":
            threading.Thread(target=time.sleep, args=(600,), name="left-behind").start()
        case "a task that works in a thread":
            LEFT.append(asyncio.create_task(work_in_thread(effects), name="left-behind"))
        case _:
            raise ValueError(where)


async def work_in_thread(effects: str) -> None:
    """It is cancelled while its thread is at a gate: the thread goes on."""

    def work() -> None:
        stand_in_thread_at(effects, "gate")
        note(effects, "the work is done")

    await asyncio.to_thread(work)


LEFT: list[asyncio.Task[None]] = []

WORKFLOWS: tuple[Callable[..., Coroutine[Any, Any, Any]], ...] = (
    sleeping_workflow,
    keeping,
    publishing,
    nap,
    passage,
    thread_passage,
    loop_passage,
    measured_sleep,
    waiting,
    counting,
    gathering,
    failing,
)
TASKS: tuple[Callable[..., Any], ...] = (
    double,
    double_in_thread_of_loop,
    kill_own_process,
    leave_behind,
    note,
    swallow_cancels,
)


def make_app(
    source: str | AnyClient | None, namespace: str, *, settings: Settings = DEFAULTS, group: str = "workers"
) -> Durasleep:
    """An application with all functions of this file."""
    app = Durasleep(source, namespace=namespace, settings=settings, group=group)
    for workflow in WORKFLOWS:
        app.workflow(workflow)
    for task in TASKS:
        app.task(task)
    return app


# What `durasleep worker tests.service.functions:app` serves.
app = make_app(None, os.environ.get(NAMESPACE_VARIABLE, "durasleep"))
sturdy_app = make_app(
    None,
    os.environ.get(NAMESPACE_VARIABLE, "durasleep"),
    settings=Settings(heartbeat_s=0.25, dead_after_s=0.75, max_attempts=1000),
)
sharing_app = make_app(None, os.environ.get(NAMESPACE_VARIABLE, "durasleep"), settings=SHARING)
quick_app = make_app(None, os.environ.get(NAMESPACE_VARIABLE, "durasleep"), settings=QUICK)
leaving_app = make_app(
    None, os.environ.get(NAMESPACE_VARIABLE, "durasleep"), settings=Settings(grace_s=4.0, threads_lost_s=2.0)
)
leaving_app.task(timeout=0.5)(sleep_in_thread_of_loop)
leaving_app.task(timeout=0.5)(stand_in_thread_of_loop)
