"""The corpus of the replay laws: workflows of many shapes, each with its events from outside."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from durasleep import Canceled, Retry, TimedOut
from durasleep.model import Entry, State
from durasleep.runtime.context import Context
from tests.unit.runtime_world import Line, Slow, WorkflowFn, World


@dataclass(frozen=True)
class Shape:
    """A workflow and the script of its outside world."""

    fn: WorkflowFn
    script: dict[str, Line] = field(default_factory=dict[str, Line])
    args: tuple[Any, ...] = ()
    answer: Callable[[Entry], Line | None] | None = None
    """How promises and children settle that the script does not name."""

    def world(self, *, keep: bool = False) -> World:
        """One execution of it."""
        return World(self.fn, *self.args, keep=keep, script=self.script, answer=self.answer)


# -- steps


def add(a: int, b: int) -> int:
    return a + b


def fail(text: str) -> int:
    raise ValueError(text)


def slowly(seconds: float, value: Any) -> Any:
    """A step that ends some seconds later."""
    return Slow(seconds, value)


def fail_slowly(seconds: float, text: str) -> Any:
    return Slow(seconds, ValueError(text))


async def napping(ctx: Context, seconds: float, value: Any) -> Any:
    await ctx.sleep(seconds)
    return value


# -- one thing after another


async def sequence(ctx: Context) -> list[Any]:
    await ctx.sleep(5)
    total = await ctx.run(add, 1, 2)
    await asyncio.sleep(1)
    return [total, ctx.random(), str(ctx.uuid()), ctx.now().isoformat()]


async def looping(ctx: Context) -> int:
    """A loop whose end depends on the results of its steps."""
    total = 1
    while total < 50:
        total = await ctx.run(add, total, total)
        if total % 3 == 1:
            await ctx.sleep(timedelta(minutes=total))
    return total


async def until_instants(ctx: Context) -> list[str]:
    """Instants, one of them past, and no time at all."""
    begun = ctx.now()
    seen: list[str] = []
    for seconds in (30, -30, 31):
        await ctx.sleep_until(begun + timedelta(seconds=seconds))
        seen.append(str(ctx.now() - begun))
        await asyncio.sleep(0)
        await ctx.sleep(0)
    return seen


async def catching(ctx: Context) -> list[str]:
    """Steps that fail, caught one by one; the last one is raised from another."""
    log: list[str] = []
    for text in ("one", "two"):
        try:
            await ctx.run(fail, text)
        except ValueError as error:
            log.append(str(error))
            await ctx.sleep(1)
    try:
        await ctx.run(fail, "three")
    except ValueError as error:
        raise LookupError("after", *log) from error
    return log


async def failing(ctx: Context) -> None:
    await ctx.sleep(1)
    await ctx.run(fail, "in the end")


async def compensating(ctx: Context) -> list[str]:
    """A saga: its steps are undone in the opposite order."""
    undo: list[tuple[int, int]] = []
    log: list[str] = []
    try:
        for n in range(4):
            await ctx.run(add, n, 10)
            undo.append((n, -10))
            await ctx.sleep(1)
        await ctx.run(fail, "no parcel service")
    except ValueError as error:
        log.append(str(error))
        log.extend([f"undone {await ctx.run(add, *call)}" for call in reversed(undo)])
    return log


async def retrying(ctx: Context) -> list[str]:
    """Attempts with long and with short waits, and attempts that are overtaken."""
    log: list[str] = []
    for retry in (Retry(attempts=3, delay=2), Retry(attempts=4, delay=0.1, jitter=0)):
        try:
            await ctx.run(fail, "again", retry=retry)
        except ValueError as error:
            log.append(str(error))
    try:
        async with asyncio.timeout(4):
            await ctx.run(fail_slowly, 1, "never", retry=Retry(attempts=9, delay=1, backoff=1, jitter=0))
    except TimeoutError:
        log.append("enough")
    await ctx.sleep(1)
    return log


async def counting(ctx: Context) -> list[Any]:
    """Transactions in a loop, two of them at once."""
    answers: list[Any] = []
    for n in range(3):
        answers.append(await ctx.transaction().incr("a").execute("SET", "b", n))
        await ctx.sleep(1)
    first, second = ctx.transaction().incr("c"), ctx.transaction().incr("d")

    async def sending(tx: Any) -> Any:
        return await tx

    return [*answers, *await asyncio.gather(sending(first), sending(second))]


async def chances(ctx: Context) -> list[Any]:
    """Chance and time in several tasks, between their waits."""

    async def branch(n: int) -> list[Any]:
        before = [ctx.random(), str(ctx.uuid())]
        await ctx.sleep(3 - n)
        return [*before, ctx.random(), ctx.now().isoformat()]

    return [*await asyncio.gather(*map(branch, range(3))), ctx.random()]


async def changed(ctx: Context) -> list[bool]:
    """Asks a step which branch to take, more than once."""
    ways = [ctx.patched("two-reminders")]
    await ctx.sleep(1)
    ways.extend([ctx.patched("two-reminders"), ctx.patched("other")])
    await ctx.sleep(1)
    return ways


async def beginning_anew(ctx: Context, runs: int = 3) -> None:
    await asyncio.gather(ctx.sleep(1), ctx.run(add, runs, 1))
    ctx.continue_as_new(runs - 1)


# -- many things at once


async def fan_out(ctx: Context) -> list[int]:
    async def branch(n: int) -> int:
        await ctx.sleep(10 - n)
        return await ctx.run(add, n, await ctx.run(add, n, n))

    return await asyncio.gather(*(branch(n) for n in range(5)))


async def dynamic_fan_out(ctx: Context) -> list[list[int]]:
    """As many branches as one step says, each with as many calls as another step says."""

    async def branch(n: int) -> list[int]:
        return list(await asyncio.gather(*(ctx.run(add, n, m) for m in range(await ctx.run(add, n, 1)))))

    return list(await asyncio.gather(*(branch(n) for n in range(await ctx.run(slowly, 1, 4)))))


async def fan_in(ctx: Context) -> list[int]:
    """The first three of six; the others are canceled."""
    arrived: asyncio.Queue[int] = asyncio.Queue()

    async def branch(n: int) -> None:
        await ctx.sleep((5 * n) % 7 + 1)
        await arrived.put(await ctx.run(add, n, 100))

    tasks = [asyncio.create_task(branch(n)) for n in range(6)]
    first = [await arrived.get() for _ in range(3)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return first


async def tree(ctx: Context) -> int:
    """Branches of branches of branches."""

    async def grow(depth: int, n: int) -> int:
        if depth == 0:
            return await ctx.run(add, n, 0)
        await ctx.sleep(n % 3)
        return sum(await asyncio.gather(grow(depth - 1, 2 * n), grow(depth - 1, 2 * n + 1)))

    return await grow(3, 1)


async def gathering_failures(ctx: Context) -> list[str]:
    """A gather that fails leaves its other branches running."""

    async def bad() -> None:
        await ctx.sleep(2)
        await ctx.run(fail, "bad")

    good = asyncio.create_task(napping(ctx, 4, "good"))
    log: list[str] = []
    try:
        await asyncio.gather(bad(), good, ctx.sleep(3))
    except ValueError as error:
        log.append(str(error))
    log.append(await good)
    outcomes = await asyncio.gather(bad(), bad(), napping(ctx, 1, "fine"), return_exceptions=True)
    return [*log, *map(repr, outcomes)]


async def canceling_a_gather(ctx: Context) -> list[str]:
    log: list[str] = []

    async def branch(n: int) -> None:
        try:
            await ctx.sleep(10 + n)
        except asyncio.CancelledError:
            log.append(f"{n} canceled")
            await ctx.run(add, n, n)
            raise

    gathered = asyncio.gather(branch(0), branch(1), ctx.promise())
    await ctx.sleep(1)
    gathered.cancel()
    try:
        await gathered
    except asyncio.CancelledError:
        log.append("all canceled")
    return log


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


async def groups_in_groups(ctx: Context) -> list[Any]:
    """The inner one fails; the outer one gets the error after its own body has cleaned up."""
    log: list[Any] = []
    try:
        async with asyncio.TaskGroup() as outer:
            other = outer.create_task(napping(ctx, 1, "other"))
            outer.create_task(napping(ctx, 50, "outer"))
            try:
                async with asyncio.TaskGroup() as inner:
                    inner.create_task(failing_after(ctx, 2, "inner"))
                    await ctx.sleep(100)
            finally:
                log.append([other.result(), await ctx.run(add, 1, 1)])
    except* ValueError as errors:
        log.append(repr(errors))
    return log


async def failing_after(ctx: Context, seconds: float, text: str) -> None:
    await ctx.sleep(seconds)
    await ctx.run(fail, text)


async def ending_in_a_group(ctx: Context) -> None:
    """It ends with an exception group of exception groups."""

    async def inner() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(failing_after(ctx, 1, "a"))
            tasks.create_task(failing_after(ctx, 1, "b"))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(inner())
        tasks.create_task(failing_after(ctx, 1, "c"))


async def race(ctx: Context) -> list[Any]:
    order: list[Any] = []
    waits: set[asyncio.Future[Any]] = {ctx.promise(), ctx.promise(timeout=4), asyncio.ensure_future(fan_out(ctx))}
    numbers = {future: n for n, future in enumerate(waits)}
    while waits:
        done, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        order.extend([numbers[future], repr(future.exception() or future.result())] for future in done)
    return order


async def racing(ctx: Context) -> list[Any]:
    """``ctx.race`` of durable calls, of tasks, and of one that fails."""
    first = await ctx.race(ctx.sleep(3), ctx.promise(timeout=9), napping(ctx, 2, "nap"))
    second = await ctx.race(ctx.run(slowly, 5, "step"), ctx.run(slowly, 4, "other"))
    try:
        await ctx.race(failing_after(ctx, 1, "lost"), ctx.promise())
    except ValueError as error:
        return [first.index, first.value, second.index, second.value, str(error)]
    return []


async def waiting_for_all(ctx: Context) -> list[Any]:
    """Waits for all of them, with a time limit: late ones go on."""
    tasks = [asyncio.create_task(napping(ctx, 2 * n, n)) for n in range(5)]
    done, late = await asyncio.wait(tasks, timeout=5)
    early = sorted(task.result() for task in done)
    await asyncio.wait(late)
    return [early, [task.result() for task in tasks]]


async def waiting_for_a_failure(ctx: Context) -> list[Any]:
    tasks = [
        asyncio.create_task(napping(ctx, 1, "first")),
        asyncio.create_task(failing_after(ctx, 2, "second")),
        asyncio.create_task(napping(ctx, 3, "third")),
    ]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    seen = [repr(task.exception() or task.result()) for task in tasks if task in done]
    for task in pending:
        task.cancel()
    await asyncio.wait(pending)
    return [seen, [task.cancelled() for task in tasks]]


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


async def late_awaiting(ctx: Context) -> list[Any]:
    """Calls begun together and awaited in another order, or never."""
    promise, step, child, nap = ctx.promise(), ctx.run(slowly, 2, "step"), ctx.rpc("ship", 1), ctx.sleep(1)
    ctx.run(add, 4, 4)
    results = [await child, await step, await promise]
    await nap
    await nap
    return results


async def left_running(ctx: Context) -> str:
    """It ends while others of its tasks have not."""
    kept = [asyncio.create_task(napping(ctx, 100, n)) for n in range(2)]
    ctx.rpc("ship", 1)
    await ctx.sleep(1)
    return f"{len(kept)} left"


# -- time limits


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


async def nested_timeouts(ctx: Context, outer: float, inner: float) -> list[str]:
    """Each of them may be the first."""
    log: list[str] = []
    try:
        async with asyncio.timeout(outer):
            try:
                async with asyncio.timeout(inner):
                    await asyncio.wait_for(ctx.promise(), 3)
            except TimeoutError:
                log.append("inner")
                await ctx.sleep(2)
                log.append("still in time")
    except TimeoutError:
        log.append("outer")
    await ctx.sleep(1)
    return log


async def deadlines(ctx: Context) -> list[Any]:
    """``timeout_at``, and a time limit that is moved while it runs."""
    loop = asyncio.get_running_loop()
    log: list[Any] = []
    deadline = loop.time() + 3
    for n in range(4):
        try:
            async with asyncio.timeout_at(deadline):
                await ctx.sleep(1.25)
            log.append(n)
        except TimeoutError:
            log.append("late")
    async with asyncio.timeout(2) as limit:
        await ctx.sleep(1)
        limit.reschedule(loop.time() + 3)
        await ctx.sleep(2)
    return [*log, limit.expired()]


async def overtaken(ctx: Context) -> list[Any]:
    """Steps that take longer than their limit; nobody gets their late results."""
    log: list[Any] = []
    for seconds in (1, 5):
        try:
            log.append(await asyncio.wait_for(ctx.run(slowly, seconds, "done"), 2))
        except TimeoutError:
            log.append(await ctx.run(add, seconds, 0))
    try:
        async with asyncio.timeout(1):
            await asyncio.gather(ctx.run(slowly, 9, 1), ctx.run(fail_slowly, 9, "late"), ctx.run(add, 1, 1))
    except TimeoutError:
        await ctx.sleep(20)
    return log


async def shielding(ctx: Context) -> list[Any]:
    """A shielded call survives the time limit around it, and is awaited after all."""
    work = asyncio.create_task(napping(ctx, 5, "work"))
    log: list[Any] = []
    while not work.done():
        try:
            log.append(await asyncio.wait_for(asyncio.shield(work), 2))
        except TimeoutError:
            log.append(await ctx.run(add, len(log), 1))
    return log


async def debouncing(ctx: Context) -> list[list[int]]:
    """A batch ends when no item has come for a while."""
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def produce() -> None:
        for n, pause in enumerate((1, 1, 4, 1, 6, 1)):
            await ctx.sleep(pause)
            queue.put_nowait(n)

    producer = asyncio.create_task(produce())
    batches: list[list[int]] = [[]]
    while not (producer.done() and queue.empty() and not batches[-1]):
        try:
            batches[-1].append(await asyncio.wait_for(queue.get(), 3))
        except TimeoutError:
            batches.append([])
    return batches[:-1]


async def reminding(ctx: Context) -> str:
    """Waits for an answer and asks again each day, three times."""
    answer = ctx.promise(name="answer")
    for reminder in range(3):
        done, _ = await asyncio.wait([answer], timeout=86_400)
        if done:
            return f"{await answer} after {reminder} reminders"
        await ctx.run(add, reminder, 1)
    answer.cancel()
    return "given up"


# -- the tools of asyncio


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


async def pipeline(ctx: Context) -> list[str]:
    """Three workers take from a priority queue until all work is done."""
    queue: asyncio.PriorityQueue[tuple[int, int]] = asyncio.PriorityQueue()
    log: list[str] = []

    async def work(name: int) -> None:
        while True:
            _, item = await queue.get()
            await ctx.sleep(1 + item % 3)
            log.append(f"{name} did {await ctx.run(add, item, 0)}")
            queue.task_done()

    workers = [asyncio.create_task(work(name)) for name in range(3)]
    for item in range(8):
        queue.put_nowait(((5 * item) % 8, item))
    await queue.join()
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    return log


async def signalling(ctx: Context) -> list[Any]:
    """Events that tasks wait for, set again and again."""
    opened, closed = asyncio.Event(), asyncio.Event()
    log: list[Any] = []

    async def visitor(n: int) -> None:
        await ctx.sleep(n)
        await opened.wait()
        log.append([n, ctx.now().second])

    visitors = [asyncio.create_task(visitor(n)) for n in range(5)]
    for _ in range(2):
        await ctx.sleep(1.5)
        opened.set()
        await ctx.sleep(0.2)
        opened.clear()
    opened.set()
    await asyncio.gather(*visitors)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(closed.wait(), 1)
    return log


async def locking(ctx: Context) -> list[int]:
    """A lock is taken in the order of the requests; a waiter that gives up is skipped."""
    lock = asyncio.Lock()
    log: list[int] = []

    async def holder(n: int) -> None:
        await ctx.sleep(n % 3)
        async with lock:
            log.append(await ctx.run(slowly, 1, n))

    tasks = [asyncio.create_task(holder(n)) for n in range(6)]
    await ctx.sleep(1.5)
    tasks[3].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return log


async def limiting(ctx: Context) -> list[Any]:
    """Two at a time, and never more."""
    slots = asyncio.BoundedSemaphore(2)
    inside: list[int] = []
    most = 0

    async def visit(n: int) -> int:
        nonlocal most
        async with slots:
            inside.append(n)
            most = max(most, len(inside))
            await ctx.run(slowly, 1 + n % 2, n)
            inside.remove(n)
        return n

    return [await asyncio.gather(*map(visit, range(7))), most]


async def conditions(ctx: Context) -> list[Any]:
    """Buyers wait for stock, which comes in small numbers."""
    changed = asyncio.Condition()
    stock = 0
    log: list[Any] = []

    async def buy(n: int) -> None:
        nonlocal stock
        async with changed:
            await changed.wait_for(lambda: stock >= n)
            stock -= n
            log.append([n, stock])
            await ctx.sleep(0.5)

    buyers = [asyncio.create_task(buy(n)) for n in (3, 1, 2)]
    for _ in range(6):
        await ctx.sleep(1)
        async with changed:
            stock += 1
            changed.notify_all()
    await asyncio.gather(*buyers)
    return log


async def meeting(ctx: Context) -> list[Any]:
    """A barrier that opens for every three."""
    barrier = asyncio.Barrier(3)
    log: list[Any] = []

    async def arrive(n: int) -> None:
        for round_ in range(2):
            await ctx.sleep(n + 1)
            index = await barrier.wait()
            log.append([round_, n, index])

    await asyncio.gather(*map(arrive, range(3)))
    return log


async def calling_back(ctx: Context) -> list[Any]:
    """Plain callbacks of the loop and of futures, which make durable calls of their own."""
    loop = asyncio.get_running_loop()
    log: list[Any] = []
    done = asyncio.Event()
    later = loop.call_later(2, log.append, "later")
    never = loop.call_later(3, log.append, "never")

    def note(future: asyncio.Future[Any]) -> None:
        log.append(f"step {future.result()}")
        ctx.sleep(1).add_done_callback(lambda _: done.set())

    ctx.run(slowly, 2.5, 7).add_done_callback(note)
    loop.call_soon(log.append, "soon")
    loop.call_at(loop.time() + 1, never.cancel)
    await done.wait()
    return [*log, later.cancelled(), never.cancelled()]


_tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


async def remembering(ctx: Context) -> list[str]:
    """Context variables are each task's own, across its waits."""

    async def branch(name: str) -> str:
        _tenant.set(name)
        await ctx.sleep(len(name))
        return _tenant.get()

    _tenant.set("root")
    return [*await asyncio.gather(branch("a"), branch("bcd"), branch("ef")), _tenant.get()]


async def background(ctx: Context) -> list[int]:
    """A task that ticks until the work beside it is done."""
    ticks: list[int] = []

    async def tick() -> None:
        while True:
            await asyncio.sleep(2)
            ticks.append(await ctx.run(add, len(ticks), 1))

    async with asyncio.TaskGroup() as tasks:
        ticking = tasks.create_task(tick())
        await ctx.run(slowly, 7, None)
        ticking.cancel()
    return ticks


async def canceling_tasks(ctx: Context) -> list[Any]:
    """Before they begin, while they wait, in their cleaning up, and when they are done."""
    log: list[Any] = []

    async def branch(n: int) -> int:
        try:
            await ctx.sleep(5)
        except asyncio.CancelledError:
            log.append(await ctx.run(slowly, 2, n))
            raise
        return n

    unborn, waiting, stubborn, done = (asyncio.create_task(branch(n)) for n in range(4))
    unborn.cancel("early")
    await ctx.sleep(1)
    waiting.cancel()
    stubborn.cancel()
    await ctx.sleep(1)
    stubborn.cancel()
    await ctx.sleep(10)
    log.append(done.cancel())
    tasks = (unborn, waiting, stubborn, done)
    return [log, [task.cancelled() for task in tasks], done.result()]


async def surviving(ctx: Context) -> list[Any]:
    """A task that takes its cancellation back and goes on."""
    log: list[Any] = []

    async def survivor() -> str:
        try:
            await ctx.promise()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task
            log.append(task.uncancel())
            await ctx.sleep(1)
        async with asyncio.timeout(1):
            await ctx.run(add, 1, 1)
        return "alive"

    task = asyncio.create_task(survivor())
    await ctx.sleep(1)
    task.cancel()
    return [await task, *log]


# -- generators and context managers


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


async def conversing(ctx: Context) -> list[Any]:
    """Values and exceptions sent into an async generator."""

    async def adding() -> AsyncGenerator[int, int]:
        total = 0
        while True:
            try:
                total = await ctx.run(add, total, (yield total))
            except KeyError:
                await ctx.sleep(1)
                total = 0

    adder = adding()
    seen = [await anext(adder)] + [await adder.asend(n) for n in (1, 2, 3)]
    seen.append(await adder.athrow(KeyError("reset")))
    seen.append(await adder.asend(5))
    await adder.aclose()
    return seen


async def entering(ctx: Context) -> list[str]:
    """Context managers with durable calls in both their ends; the last one swallows an error."""
    log: list[str] = []

    @asynccontextmanager
    async def room(name: str) -> AsyncGenerator[str, None]:
        log.append(f"into {name}")
        await ctx.sleep(1)
        try:
            yield name
        except ValueError as error:
            log.append(f"{name} heard {error}")
            if name == "hall":
                raise
        finally:
            await ctx.run(add, 1, 1)
            log.append(f"out of {name}")

    async with contextlib.AsyncExitStack() as stack:
        for name in ("house", "hall", "kitchen"):
            await stack.enter_async_context(room(name))
            stack.push_async_callback(napping, ctx, 1, name)
        await ctx.run(fail, "fire")
    return log


# -- others


async def children(ctx: Context) -> list[Any]:
    first, second, third = ctx.rpc("ship", 1), ctx.rpc("ship", 2, id="own"), ctx.rpc("ship", 3, timeout=3)
    results: list[Any] = [repr(result) for result in await asyncio.gather(first, second, third, return_exceptions=True)]
    tx = ctx.transaction()
    tx.incr("shipped")
    return [*results, await tx]


async def canceling_children(ctx: Context) -> list[str]:
    """A child that takes too long is canceled, and another one is started; a detached one is left alone."""
    log: list[str] = []
    await ctx.detached("mail", "begun")
    for n in range(3):
        try:
            log.append(await asyncio.wait_for(ctx.rpc("ship", n), 2))
        except TimeoutError:
            log.append("taken back")
        except ValueError as error:
            log.append(f"failed: {error}")
    ctx.detached("mail", "done", id="mail-of-order")
    return log


async def deciding(ctx: Context) -> list[str]:
    """Promises in every final state."""
    promises = [ctx.promise(timeout=10, name=f"number {n}") for n in range(5)]
    log: list[str] = []
    for promise in promises:
        try:
            log.append(repr(await promise))
        except (Canceled, TimedOut, ValueError) as error:
            log.append(type(error).__name__)
    return log


async def approving(ctx: Context) -> list[Any]:
    """A small machine of states, moved by promises and by time."""
    state, log = "draft", list[Any]()
    moves: dict[str, Callable[[], Awaitable[Any]]] = {
        "draft": lambda: ctx.promise(name="submit"),
        "review": lambda: asyncio.wait_for(ctx.promise(name="review"), 10),
        "rework": lambda: napping(ctx, 3, "review"),
    }
    while state in moves and len(log) < 9:
        try:
            state = await moves[state]()
        except TimeoutError:
            state = "rework"
        except ValueError:
            state = "rejected"
        log.append(state)
    return log


# -- cancel from outside, and ends of other kinds


async def canceled(ctx: Context) -> str:
    try:
        await asyncio.gather(ctx.sleep(100), ctx.promise())
    except asyncio.CancelledError:
        await ctx.run(add, 1, 1)
        await ctx.sleep(1)
        raise
    return "?"


async def canceled_in_a_group(ctx: Context) -> None:
    """Every branch undoes its work; a child and a running step end with them."""

    async def branch(n: int) -> None:
        await ctx.run(add, n, 1)
        try:
            await asyncio.gather(ctx.rpc("ship", n), ctx.run(slowly, 50, n))
        finally:
            if not ctx.evicting:
                await ctx.sleep(n)
                await ctx.run(add, n, -1)

    async with asyncio.TaskGroup() as tasks:
        for n in range(3):
            tasks.create_task(branch(n))


async def cleaning_up(ctx: Context) -> None:
    """Steps registered for a cancel, the last one first; one of them fails."""
    ctx.on_cancel(add, 1, 1)
    await ctx.sleep(1)
    ctx.on_cancel(fail, "no undoing")
    ctx.on_cancel(slowly, 2, "undone")
    await ctx.sleep(10)


async def unmoved(ctx: Context) -> list[str]:
    log: list[str] = []
    while len(log) < 3:
        try:
            await ctx.sleep(2)
            log.append("slept")
        except asyncio.CancelledError:
            log.append("canceled")
    return log


async def shielded_from_cancel(ctx: Context) -> list[Any]:
    """A cancel ends the waiting, not the work."""
    work = asyncio.create_task(napping(ctx, 5, "work"))
    try:
        return [await asyncio.shield(work)]
    except asyncio.CancelledError:
        return ["canceled", await work]


async def exiting(ctx: Context) -> None:
    """``sys.exit`` in a branch ends the workflow with an error."""

    async def leave() -> None:
        await ctx.sleep(1)
        sys.exit("left")

    await asyncio.gather(leave(), ctx.sleep(5))


async def stuck(ctx: Context) -> None:
    await ctx.sleep(1)
    await asyncio.Event().wait()


R, REJECTED, CANCELED = State.RESOLVED, State.REJECTED, State.CANCELED
DAY_MS = 86_400_000


def canceled_at(ms: int) -> dict[str, Line]:
    return {"0": (ms, R, None)}


# -- messages


async def waiting_for_messages(ctx: Context) -> list[Any]:
    """One of two channels, reminders, and what came while nobody waited for it."""
    got: list[Any] = []
    for _ in range(3):
        first = await ctx.race(ctx.receive("yes", timeout=5), ctx.receive("no"))
        got.append((first.index, first.value))
        await ctx.sleep(1)
    return got


async def patient(ctx: Context) -> Any:
    for asked in range(3):
        try:
            return await ctx.receive("approval", str, timeout="1d")
        except TimedOut:
            await ctx.run(add, asked, 1)
    return "nobody"


async def reading(ctx: Context) -> int:
    """Every message until none comes any more."""
    total = 0
    async for message in ctx.messages("number", int, timeout=10):
        assert not message.wants_reply
        assert not await message.reply(total), "nobody waits for an answer"
        total += message.value
    return total


async def telling(ctx: Context) -> list[Any]:
    """Its end waits for what it does not await."""
    ctx.send("ledger", "entry", 1)
    told = await asyncio.gather(ctx.send("ledger", "entry", 2), ctx.settle("approval", "yes"))
    ctx.settle("approval", error=ValueError("too late"))
    return list(told)


SHAPES = [
    Shape(sequence),
    Shape(sequence, canceled_at(5500)),
    Shape(looping),
    Shape(until_instants),
    Shape(catching),
    Shape(failing),
    Shape(compensating),
    Shape(compensating, canceled_at(2500)),
    Shape(retrying),
    Shape(retrying, canceled_at(3000)),
    Shape(counting),
    Shape(chances),
    Shape(changed),
    Shape(beginning_anew),
    Shape(fan_out),
    Shape(dynamic_fan_out),
    Shape(fan_in),
    Shape(tree),
    Shape(gathering_failures),
    Shape(canceling_a_gather),
    Shape(group),
    Shape(groups_in_groups),
    Shape(ending_in_a_group),
    Shape(race, {"1": (9500, R, "a")}),
    Shape(race, {"1": (1, R, "a"), "2": (2, REJECTED, ValueError("b"))}),
    Shape(race, {"1": (7000, CANCELED, None), "2": (3999, R, "b")}),
    Shape(racing),
    Shape(racing, {"2": (2000, R, "at once")}),
    Shape(waiting_for_all),
    Shape(waiting_for_a_failure),
    Shape(completing),
    Shape(late_awaiting, {"1": (9, R, "promise"), "3": (3000, R, "child")}),
    Shape(left_running),
    Shape(timeouts),
    Shape(nested_timeouts, args=(5, 1)),
    Shape(nested_timeouts, args=(2, 1)),
    Shape(nested_timeouts, args=(1, 2)),
    Shape(nested_timeouts, args=(3, 3)),
    Shape(nested_timeouts, {"3": (2999, R, "in time")}, args=(4, 4)),
    Shape(deadlines),
    Shape(overtaken),
    Shape(shielding),
    Shape(debouncing),
    Shape(reminding),
    Shape(reminding, {"1": (DAY_MS + 1, R, "yes")}),
    Shape(reminding, {"1": (2 * DAY_MS, R, "yes, on time")}),
    Shape(producing),
    Shape(pipeline),
    Shape(signalling),
    Shape(locking),
    Shape(limiting),
    Shape(conditions),
    Shape(meeting),
    Shape(calling_back),
    Shape(remembering),
    Shape(background),
    Shape(canceling_tasks),
    Shape(surviving),
    Shape(streaming),
    Shape(conversing),
    Shape(entering),
    Shape(children, {"1": (1, R, 10), "2": (1, REJECTED, ValueError("lost"))}),
    Shape(children, {"1": (5000, CANCELED, None), "2": (1, R, 2), "3": (2, R, 3)}),
    Shape(canceling_children, {"3": (2500, R, "sent"), "4": (3000, REJECTED, ValueError("lost"))}),
    Shape(canceling_children),
    Shape(deciding, {"1": (5, R, 1), "2": (4, REJECTED, ValueError("no")), "3": (3, CANCELED, None), "5": (20, R, 5)}),
    Shape(approving, {"1": (1000, R, "review"), "5": (20_000, R, "accepted")}),
    Shape(approving, {"1": (1000, R, "review"), "2": (2000, REJECTED, ValueError("no"))}),
    Shape(canceled, canceled_at(50)),
    Shape(canceled_in_a_group, canceled_at(4000)),
    Shape(cleaning_up, canceled_at(500)),
    Shape(cleaning_up, canceled_at(1500)),
    Shape(unmoved, canceled_at(3000)),
    Shape(shielded_from_cancel, canceled_at(2000)),
    Shape(exiting),
    Shape(stuck),
    Shape(waiting_for_messages, {"1": (1000, R, "a"), "5": (3000, R, "b"), "7": (4500, R, "c")}),
    Shape(waiting_for_messages, {"2": (1000, R, "a"), "4": (3000, R, "b"), "8": (4500, R, "c")}),
    Shape(patient, {"3": (DAY_MS + 9, R, "yes")}),
    Shape(patient),
    Shape(reading, {"1": (5, R, 1), "2": (6, R, 2), "3": (9000, R, 3)}),
    Shape(telling),
]
SHAPE_IDS = [f"{shape.fn.__name__}-{n}" for n, shape in enumerate(SHAPES)]
