"""A corpus of workflow shapes: what people write with asyncio and a context, and what comes from outside meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from durasleep.errors import Canceled, TimedOut
from durasleep.model import State
from durasleep.runtime.context import Context
from durasleep.runtime.retry import Retry
from tests.unit.runtime_world import WorkflowFn


def add(a: int, b: int) -> int:
    return a + b


def fail(text: str) -> int:
    raise ValueError(text)


async def sequence(ctx: Context) -> list[Any]:
    await ctx.sleep(5)
    total = await ctx.run(add, 1, 2)
    await asyncio.sleep(1)
    return [total, ctx.random(), str(ctx.uuid()), ctx.now().isoformat()]


async def fan_out(ctx: Context) -> list[int]:
    async def branch(n: int) -> int:
        await ctx.sleep(10 - n)
        return await ctx.run(add, n, await ctx.run(add, n, n))

    return await asyncio.gather(*(branch(n) for n in range(5)))


async def group(ctx: Context) -> list[str]:
    log: list[str] = []

    async def branch(n: int) -> None:
        try:
            await ctx.sleep(n)
            log.append(f"{n} done")
            if n == 3:
                await ctx.run(fail, "three")
        except asyncio.CancelledError:
            log.append(f"{n} canceled")
            raise

    try:
        async with asyncio.TaskGroup() as tasks:
            for n in range(6):
                tasks.create_task(branch(n))
    except* ValueError as errors:
        log.append(str(errors.exceptions[0]))
    await ctx.sleep(1)
    return log


async def race(ctx: Context) -> list[Any]:
    order: list[Any] = []
    waits: set[asyncio.Future[Any]] = {ctx.promise(), ctx.promise(timeout=4), asyncio.ensure_future(fan_out(ctx))}
    numbers = {future: n for n, future in enumerate(waits)}
    while waits:
        done, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        order.extend([numbers[future], repr(future.exception() or future.result())] for future in done)
    return order


async def timeouts(ctx: Context) -> list[str]:
    log: list[str] = []
    for n in range(4):
        try:
            async with asyncio.timeout(2):
                await asyncio.gather(ctx.sleep(n), ctx.run(add, n, 1))
            log.append(f"{n} in time")
        except TimeoutError:
            log.append(f"{n} too late")
    try:
        await asyncio.wait_for(asyncio.shield(ctx.promise(name="approval")), 3)
    except TimeoutError:
        log.append("no approval")
    return log


async def producing(ctx: Context) -> list[int]:
    queue: asyncio.Queue[int | None] = asyncio.Queue(2)

    async def produce() -> None:
        for n in range(6):
            await ctx.sleep(1)
            await queue.put(await ctx.run(add, n, n))
        await queue.put(None)

    producer = asyncio.create_task(produce())
    items: list[int] = []
    while (item := await queue.get()) is not None:
        items.append(item)
        if item % 4:
            await ctx.sleep(2, name="digest")
    await producer
    return items


async def completing(ctx: Context) -> list[Any]:
    async def branch(n: int) -> int:
        await ctx.sleep((7 * n) % 5)
        return n

    order: list[Any] = [await first for first in asyncio.as_completed([branch(n) for n in range(8)])]
    try:
        for first in asyncio.as_completed([branch(n) for n in range(3)], timeout=1):
            order.append(await first)  # noqa: PERF401 - a comprehension would lose what came in time
    except TimeoutError:
        order.append("time is up")
    return order


async def children(ctx: Context) -> list[Any]:
    first, second, third = ctx.rpc("ship", 1), ctx.rpc("ship", 2, id="own"), ctx.rpc("ship", 3, timeout=3)
    results: list[Any] = [repr(result) for result in await asyncio.gather(first, second, third, return_exceptions=True)]
    tx = ctx.transaction()
    tx.incr("shipped")
    return [*results, await tx]


async def streaming(ctx: Context) -> list[int]:
    async def ticks(count: int) -> AsyncIterator[int]:
        try:
            for n in range(count):
                await ctx.sleep(1)
                yield n
        finally:
            await ctx.run(add, count, count)

    seen = [n async for n in ticks(3)]
    async for n in ticks(10):
        seen.append(n)
        if n == 1:
            break
    await ctx.sleep(1)
    return seen


async def canceled(ctx: Context) -> str:
    try:
        await asyncio.gather(ctx.sleep(100), ctx.promise())
    except asyncio.CancelledError:
        await ctx.run(add, 1, 1)
        await ctx.sleep(1)
        raise
    return "?"


async def unmoved(ctx: Context) -> list[str]:
    log: list[str] = []
    while len(log) < 3:
        try:
            await ctx.sleep(2)
            log.append("slept")
        except asyncio.CancelledError:
            log.append("canceled")
    return log


async def failing(ctx: Context) -> None:
    await ctx.sleep(1)
    await ctx.run(fail, "in the end")


async def stuck(ctx: Context) -> None:
    await ctx.sleep(1)
    await asyncio.Event().wait()


async def looping(ctx: Context) -> int:
    total = 0
    for n in range(20):
        total = await ctx.run(add, total, n)
        if n % 5 == 4:
            await ctx.sleep(1)
    return total


async def collecting(ctx: Context) -> list[str]:
    """Gathers with exceptions kept as results."""
    results = await asyncio.gather(
        ctx.run(fail, "step"), ctx.promise(), ctx.promise(timeout=1), ctx.run(add, 1, 1), return_exceptions=True
    )
    return [repr(result) for result in results]


async def giving_up(ctx: Context) -> str:
    """A gather that fails while others wait; they go on until they are canceled."""
    promise, nap = ctx.promise(), ctx.sleep(50)
    try:
        await asyncio.gather(promise, nap, ctx.run(fail, "first"))
    except ValueError as error:
        promise.cancel()
        nap.cancel()
        await ctx.sleep(1)
        return str(error)
    return "?"


async def nested_groups(ctx: Context) -> list[int]:
    async def inner(n: int) -> int:
        async with asyncio.TaskGroup() as tasks:
            parts = [tasks.create_task(leaf(n, m)) for m in range(3)]
        return sum(part.result() for part in parts)

    async def leaf(n: int, m: int) -> int:
        await ctx.sleep((n * 3 + m * 5) % 4)
        return await ctx.run(add, n, m)

    async with asyncio.TaskGroup() as tasks:
        outer = [tasks.create_task(inner(n)) for n in range(3)]
    return [task.result() for task in outer]


async def waiting_for_failure(ctx: Context) -> list[Any]:
    """FIRST_EXCEPTION, then ALL_COMPLETED, then a wait that times out."""

    async def failing_after(secs: float) -> None:
        await ctx.sleep(secs)
        raise ValueError(f"after {secs}")

    tasks = [asyncio.create_task(failing_after(3)), asyncio.create_task(failing_after(5))]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    first = [len(done), len(pending)]
    done, _ = await asyncio.wait(tasks)
    errors = sorted(str(task.exception()) for task in done)
    late = asyncio.ensure_future(ctx.sleep(9))
    done, pending = await asyncio.wait([late], timeout=2)
    return [first, errors, len(done), len(pending), await late]


async def deadlines(ctx: Context) -> list[str]:
    """timeout_at, one timeout within another, and one moved while it runs."""
    log: list[str] = []
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(loop.time() + 2):
            await ctx.promise()
    except TimeoutError:
        log.append("timeout_at")
    try:
        async with asyncio.timeout(10):
            try:
                async with asyncio.timeout(1):
                    await ctx.sleep(5)
            except TimeoutError:
                log.append("inner")
            await ctx.sleep(20)
    except TimeoutError:
        log.append("outer")
    async with asyncio.timeout(1) as deadline:
        deadline.reschedule(loop.time() + 5)
        await ctx.sleep(3)
    log.append("moved")
    return log


async def shielded(ctx: Context) -> list[Any]:
    promise = ctx.promise()
    reminders = 0
    while True:
        try:
            value = await asyncio.wait_for(asyncio.shield(promise), 2)
        except TimeoutError:
            reminders += 1
        else:
            return [reminders, value]


async def signalling(ctx: Context) -> list[str]:
    event, condition, log = asyncio.Event(), asyncio.Condition(), list[str]()

    async def waiting(n: int) -> None:
        await event.wait()
        async with condition:
            await condition.wait_for(lambda: len(log) == n)
            log.append(f"waiter {n}")
            condition.notify_all()

    tasks = [asyncio.create_task(waiting(n)) for n in (2, 0, 1)]
    await ctx.sleep(1)
    event.set()
    await asyncio.gather(*tasks)
    return log


async def locking(ctx: Context) -> list[str]:
    lock, few, log = asyncio.Lock(), asyncio.BoundedSemaphore(2), list[str]()

    async def entering(n: int) -> None:
        async with few:
            log.append(f"{n} in")
            await ctx.sleep(3 - n % 3)
            async with lock:
                await ctx.run(add, n, n)
                log.append(f"{n} out")

    await asyncio.gather(*map(entering, range(5)))
    return log


async def prioritizing(ctx: Context) -> list[int]:
    queue: asyncio.PriorityQueue[int] = asyncio.PriorityQueue()

    async def working() -> list[int]:
        seen: list[int] = []
        while not queue.empty():
            seen.append(await queue.get())
            await ctx.sleep(1)
            queue.task_done()
        return seen

    for n in (5, 1, 4, 2, 3):
        queue.put_nowait(n)
    workers = [asyncio.create_task(working()) for _ in range(2)]
    await queue.join()
    return [n for seen in await asyncio.gather(*workers) for n in seen]


async def stopping(ctx: Context) -> list[Any]:
    """A task of its own that is canceled, and tidies up."""
    log: list[Any] = []

    async def polling() -> None:
        try:
            while True:
                log.append(await ctx.run(add, len(log), 1))
                await ctx.sleep(2)
        finally:
            if not ctx.detaching:
                log.append(await ctx.run(add, 100, 1))

    task = asyncio.create_task(polling(), name="poller")
    await ctx.sleep(5)
    task.cancel("enough")
    try:
        await task
    except asyncio.CancelledError:
        log.append(task.get_name())
    return log


async def managing(ctx: Context) -> list[str]:
    log: list[str] = []

    @asynccontextmanager
    async def reserved(n: int) -> AsyncGenerator[int]:
        await ctx.run(add, n, 0)
        try:
            yield n
        finally:
            if not ctx.detaching:
                await ctx.run(add, 0, n)
                log.append(f"freed {n}")

    async with AsyncExitStack() as stack:
        for n in range(3):
            await stack.enter_async_context(reserved(n))
            await ctx.sleep(1)
        log.append("all")
    return log


async def compensating(ctx: Context) -> list[str]:
    """A saga: what was done is undone in reverse when a later part fails."""
    undo: list[tuple[int, int]] = []
    try:
        for n in range(3):
            await ctx.run(add, n, 1)
            undo.append((n, -1))
            await ctx.sleep(1)
        await ctx.rpc("ship", timeout=2)
    except TimedOut:
        return [f"undone {await ctx.run(add, *part)}" for part in reversed(undo)]
    return ["shipped"]


async def splitting(ctx: Context) -> list[int]:
    """As many branches as a step says."""
    count = await ctx.run(add, 3, 4)
    parts = await asyncio.gather(*(ctx.run(add, n, n) for n in range(count)))
    await ctx.sleep(1)
    return await asyncio.gather(*(ctx.run(add, part, 1) for part in parts if part % 4))


async def grouping_errors(ctx: Context) -> None:
    async def failing_after(n: int) -> None:
        await ctx.sleep(1)
        raise ValueError(n)

    results = await asyncio.gather(*map(failing_after, range(3)), return_exceptions=True)
    raise ExceptionGroup("all of them", [error for error in results if isinstance(error, Exception)])


async def racing(ctx: Context) -> list[Any]:
    first = await ctx.race(ctx.promise(name="approval"), ctx.sleep(3, name="patience"))
    second = await ctx.race(looping(ctx), ctx.promise(timeout=2), ctx.sleep(90))
    return [first.index, first.value, second.index]


async def retrying(ctx: Context) -> list[str]:
    log: list[str] = []
    policies = [
        Retry(attempts=3, delay=5, jitter=0.5),
        Retry(attempts=3, delay=0.1),
        Retry(attempts=4, delay=0.4, backoff=4),
        Retry(give_up_on=(ValueError,)),
    ]
    for retry in policies:
        try:
            await ctx.run(fail, "again", retry=retry)
        except ValueError as error:
            log.append(f"{error} {ctx.now():%M:%S}")
    both = await asyncio.gather(
        ctx.run(fail, "a", retry=policies[0]), ctx.run(fail, "b", retry=policies[2]), return_exceptions=True
    )
    return [*log, *map(str, both)]


async def overtaken(ctx: Context) -> list[str]:
    """Attempts that a timeout takes back in the middle of their waits."""
    try:
        async with asyncio.timeout(8):
            await ctx.run(fail, "again", retry=Retry(attempts=9, delay=3, jitter=0))
    except TimeoutError:
        await ctx.sleep(1)
        return ["given up", ctx.now().isoformat()]
    return []


async def cleaning_up(ctx: Context) -> str:
    ctx.on_cancel(add, 1, -1)
    await ctx.sleep(2)
    ctx.on_cancel(add, 2, -2)
    await ctx.promise()
    return "?"


async def letting_go(ctx: Context) -> list[str]:
    ids = [await ctx.detached("audit", n) for n in range(2)]
    later = ctx.detached("audit", id="own")
    await ctx.sleep(1)
    return [*ids, await later]


async def changed(ctx: Context) -> list[bool]:
    ways: list[bool] = []
    for name in ("one", "two", "one"):
        await ctx.sleep(1)
        ways.append(ctx.patched(name))
        if ways[-1]:
            await ctx.run(add, 1, 1)
    return ways


async def renewed(ctx: Context) -> None:
    await asyncio.gather(ctx.sleep(1), ctx.run(add, 1, 1))
    ctx.promise()
    ctx.continue_as_new(ctx.now().isoformat(), ctx.random())


async def chatting(ctx: Context) -> list[Any]:
    """Promises one after the other, settled in every way there is."""
    log: list[Any] = []
    for n in range(4):
        try:
            log.append(await ctx.promise(name=f"question {n}", timeout=60))
        except (ValueError, Canceled, TimedOut) as error:
            log.append(type(error).__name__)
    return log


async def dreaming(ctx: Context) -> list[Any]:
    """Everything that would differ from run to run, taken from the context, in several branches."""

    async def branch(n: int) -> list[Any]:
        before = [ctx.random(), str(ctx.uuid())]
        await ctx.sleep(1 + ctx.random() * n)
        return [*before, ctx.now().isoformat(), ctx.random()]

    return [await asyncio.gather(*map(branch, range(3))), ctx.random(), str(ctx.uuid())]


async def transacting(ctx: Context) -> list[Any]:
    results: list[Any] = []
    for n in range(3):
        tx = ctx.transaction()
        tx.incr("count").set("last", n)
        results.append(await tx)
        await ctx.sleep(1)
    return results


async def abandoned(ctx: Context) -> str:
    """Tasks and calls left behind at the end, which outlive nothing."""
    leftover = asyncio.create_task(looping(ctx))
    for call in (ctx.promise(), ctx.sleep(99), ctx.rpc("ship")):
        assert not call.done()
    await ctx.sleep(0.5)
    return leftover.get_name()


@dataclass(frozen=True)
class Shape:
    fn: WorkflowFn
    script: dict[str, tuple[int, State, Any]] = field(default_factory=dict[str, tuple[int, State, Any]])


R = State.RESOLVED
SHAPES = [
    Shape(sequence),
    Shape(fan_out),
    Shape(group),
    Shape(race, {"1": (9500, R, "a")}),
    Shape(race, {"1": (1, R, "a"), "2": (2, State.REJECTED, ValueError("b"))}),
    Shape(race, {"1": (7000, State.CANCELED, None), "2": (3999, R, "b")}),
    Shape(timeouts),
    Shape(producing),
    Shape(completing),
    Shape(children, {"1": (1, R, 10), "2": (1, State.REJECTED, ValueError("lost"))}),
    Shape(children, {"1": (5000, State.CANCELED, None), "2": (1, R, 2), "3": (2, R, 3)}),
    Shape(streaming),
    Shape(canceled, {"0": (50, R, None)}),
    Shape(unmoved, {"0": (3000, R, None)}),
    Shape(sequence, {"0": (5500, R, None)}),
    Shape(failing),
    Shape(stuck),
    Shape(looping),
    Shape(collecting, {"2": (5, State.REJECTED, KeyError("no"))}),
    Shape(giving_up),
    Shape(nested_groups),
    Shape(waiting_for_failure),
    Shape(deadlines),
    Shape(shielded, {"1": (7000, R, "yes")}),
    Shape(signalling),
    Shape(locking),
    Shape(prioritizing),
    Shape(stopping),
    Shape(managing),
    Shape(managing, {"0": (1500, R, None)}),
    Shape(compensating),
    Shape(splitting),
    Shape(grouping_errors),
    Shape(racing, {"1": (2999, R, "yes")}),
    Shape(racing),
    Shape(retrying),
    Shape(overtaken),
    Shape(cleaning_up, {"0": (2500, R, None)}),
    Shape(letting_go),
    Shape(changed),
    Shape(renewed),
    Shape(chatting, {"1": (5, R, "a"), "2": (6, State.REJECTED, ValueError("b")), "3": (7, State.CANCELED, None)}),
    Shape(dreaming),
    Shape(transacting),
    Shape(abandoned),
]
