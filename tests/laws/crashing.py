"""Workflows for the crash points, and the crash: a worker that dies just before or just after its k-th exchange."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from durasleep import (
    Canceled,
    Context,
    Durasleep,
    Ended,
    NotAllowed,
    NotFound,
    OtherFunction,
    Retry,
    TimedOut,
    checkpoint,
    current,
)
from durasleep.protocol import script
from durasleep.protocol.partitions import partition_of
from durasleep.protocol.script import Value
from durasleep.transport.connection import Link

app = Durasleep(group="crashing")
effects: Counter[str] = Counter()
"""How often each step has run, by its label: the effects outside Redis."""

WRITES = {"commit": "a commit", "create": "what is asked", "hear": "what is heard", "told": "what is told"}
"""Scripts before and after which a worker dies. Only its relays create, in another partition."""
NOTES = {"note": "a checkpoint", "send": "a message", "settle": "a settlement"}
"""Scripts that only some workflows need, before and after which a worker dies, too."""
PARTITIONS = 4
MANY = 300  # timers: more than one script call may start


class Crash:
    """Counts the points of a run and, with ``point``, lets the worker die there.

    A point is an exchange that changes something: just before a commit is sent, or just after it, when its answer is
    lost; and after a read that brought entries, or a firing that settled timers. What goes from one partition to
    another has its points before and after, too: it is asked, heard and told.
    """

    def __init__(self) -> None:
        self.happened = asyncio.Event()
        self.passed: list[str] = []
        """The points passed so far."""
        self.at: int | None = None
        self._fire = script.load("fire", True).sha
        self._writes = {script.load(name, True).sha: what for name, what in (WRITES | NOTES).items()}
        self._seen: set[Link] = set()
        self._dead: set[Link] = set()

    def arm(self, at: int | None) -> None:
        """Count from the beginning again, and die at a point."""
        self.at = at
        self.passed.clear()
        self.happened.clear()

    def install(self, patch: pytest.MonkeyPatch, worker_name: str) -> None:
        """Intercept every exchange of a worker with this name."""
        exchange = Link.exchange

        async def watched(link: Link, commands: Sequence[Sequence[Value]], *, block_s: float = 0.0) -> list[Any]:
            if not link._name.endswith(f"/{worker_name}"):  # pyright: ignore[reportPrivateUsage]
                return await exchange(link, commands, block_s=block_s)
            self._seen.add(link)
            writes = [self._writes[word] for command in commands for word in command[:2] if word in self._writes]
            for what in writes[:1]:
                await self._pass(f"before {what}", link)
            await self._wait_if_dead(link)
            replies = await exchange(link, commands, block_s=block_s)
            await self._wait_if_dead(link)
            for what in writes[-1:]:
                await self._pass(f"after {what}", link)
            for command, reply in zip(commands, replies, strict=True):
                if self._fire in command[:2] and isinstance(reply, list) and reply[2]:
                    await self._pass("after a firing", link)
                if command[0] == b"XREADGROUP" and reply:
                    await self._pass("after a read", link)
            return replies

        patch.setattr(Link, "exchange", watched)

    async def _pass(self, point: str, link: Link) -> None:
        if self.at == len(self.passed):
            self._dead |= self._seen
            self.happened.set()
        self.passed.append(point)
        await self._wait_if_dead(link)

    async def _wait_if_dead(self, link: Link) -> None:
        if link in self._dead:
            await asyncio.Event().wait()


# -- steps


async def note(label: str) -> str:
    effects[label] += 1
    return label


def note_in_thread(label: str) -> str:
    effects[label] += 1
    return label


async def fail_twice(label: str) -> str:
    effects[label] += 1
    if effects[label] < 3:
        raise ConnectionError("not yet")
    return label


async def go_on(label: str) -> str:
    """A step in two parts, of which the second one fails at first."""
    effects[label] += 1
    if current().checkpoint is None:
        checkpoint("half")
        await asyncio.sleep(0)
    if effects[label] < 2:
        raise ConnectionError("not yet")
    return label


async def fail(label: str) -> str:
    effects[label] += 1
    raise ValueError(label)


async def resolve(id: str, value: int) -> None:
    await app.promises.resolve(id, value)


async def cancel(id: str) -> None:
    await app.cancel(id)


async def wake(id: str) -> None:
    await app.wake(id)


async def put_off(id: str) -> None:
    await app.reschedule(id, timedelta(hours=5))


# -- workflows


@app.workflow
async def going_on(ctx: Context) -> str:
    return await ctx.run(go_on, "goes on", retry=Retry(attempts=5, delay=60, jitter=0))


@app.workflow
async def sequence(ctx: Context) -> list[str]:
    first = await ctx.run(note, "first")
    await ctx.sleep(timedelta(days=1))
    second = await ctx.run(note_in_thread, "second")
    await asyncio.sleep(5)
    return [first, second]


@app.workflow
async def together(ctx: Context) -> list[Any]:
    async def branch(label: str, seconds: float) -> str:
        await ctx.sleep(seconds)
        return await ctx.run(note, label)

    return [
        *await asyncio.gather(ctx.run(note, "a"), ctx.run(note, "b"), branch("c", 1), branch("d", 2), branch("e", 2))
    ]


@app.workflow
async def child(ctx: Context, n: int) -> int:
    await ctx.run(note, f"child {n}")
    await ctx.sleep(n)
    return n


@app.workflow
async def children(ctx: Context) -> list[int]:
    return await asyncio.gather(*(ctx.rpc(child, n) for n in range(1, 6)))


@app.workflow
async def generations(ctx: Context, deep: int = 4) -> int:
    await ctx.sleep(1)
    below = await ctx.rpc(generations, deep - 1) if deep else 0
    await ctx.run(note, f"generation {deep}")
    return below + 1


@app.workflow
async def named_child(ctx: Context) -> list[Any]:
    name = f"{ctx.info.id}-child"
    started = await ctx.detached(child, 7, id=name)
    return [started == name, await ctx.rpc(child, 7, id=name)]


@app.workflow
async def trying_again(ctx: Context) -> str:
    return await ctx.run(fail_twice, "third time", retry=Retry(attempts=5, delay=10))


@app.task(retry=Retry(attempts=5, delay=10))
async def task_trying_again() -> str:
    return await fail_twice("third time")


@app.workflow
async def counting(ctx: Context) -> list[int]:
    counter = f"{ctx.info.id}-counter"
    found: list[int] = []
    for _ in range(3):
        found += await ctx.transaction().incr(counter)
        await ctx.sleep(1)
    both = await asyncio.gather(ctx.transaction().incr(counter), ctx.transaction().incr(counter))
    return [*found, *sorted(count for [count] in both)]


@app.workflow
async def racing(ctx: Context) -> list[Any]:
    slow = await ctx.race(ctx.promise(name="approval"), ctx.sleep(10))
    promise = ctx.promise(name="approval")
    await ctx.run(resolve, promise.id, 5)
    fast = await ctx.race(promise, ctx.sleep(3600))
    return [slow.index, fast.index, fast.value]


@app.workflow
async def waiting_long(ctx: Context) -> str:
    ctx.on_cancel(note, "undone")
    await ctx.sleep(timedelta(days=30))
    return "never"


@app.workflow
async def canceling_a_child(ctx: Context) -> str:
    running = ctx.rpc(waiting_long)
    await ctx.sleep(1)
    await ctx.run(cancel, running.id)
    try:
        return await running
    except Canceled:
        return await ctx.run(note, "was canceled")


@app.workflow
async def taking_back(ctx: Context) -> str:
    running = ctx.rpc(waiting_long)
    await ctx.sleep(1)
    running.cancel()
    await ctx.sleep(1)
    return "taken back"


@app.workflow
async def canceling_itself(ctx: Context) -> str:
    ctx.on_cancel(note, "undone")
    await ctx.run(cancel, ctx.info.id)
    await ctx.sleep(timedelta(days=30))
    return "never"


@app.workflow
async def beginning_anew(ctx: Context, run: int = 1) -> str:
    await ctx.run(note, f"run {run}")
    await ctx.sleep(1)
    if run < 3:
        ctx.continue_as_new(run + 1)
    return f"run {run}"


@app.workflow
async def timing_out(ctx: Context) -> list[str]:
    seen: list[str] = []
    try:
        async with asyncio.timeout(5):
            await ctx.sleep(3600)
    except TimeoutError:
        seen.append("timeout")
    try:
        await ctx.rpc(waiting_long, timeout=3)
    except TimedOut:
        seen.append("deadline")
    return seen


@app.workflow
async def failing_in_a_group(ctx: Context) -> str:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(waiting(ctx, 3600))
            group.create_task(waiting(ctx, 1))
            await ctx.sleep(2)
            await ctx.run(fail, "no")
    except ExceptionGroup as errors:
        return await ctx.run(note, f"{errors.exceptions[0]}")
    return "never"


async def waiting(ctx: Context, seconds: float) -> None:
    await ctx.sleep(seconds)


@app.workflow
async def failing(ctx: Context) -> None:
    await ctx.sleep(1)
    await ctx.run(fail, "it fails")


@app.workflow
async def changed(ctx: Context) -> list[bool]:
    return [ctx.patched("one"), await ctx.sleep(1) is None, ctx.patched("two")]


@app.workflow
async def controlled(ctx: Context) -> str:
    woken, moved = ctx.sleep(timedelta(days=9)), ctx.sleep(timedelta(hours=1))
    await ctx.run(wake, woken.id)
    await ctx.run(put_off, moved.id)
    await woken
    await moved
    return await ctx.run(note, "both")


@app.workflow
async def many_timers(ctx: Context) -> int:
    await asyncio.gather(*(ctx.sleep(n % 3 + 1) for n in range(MANY)))
    return MANY


# -- messages


@app.workflow
async def listening(ctx: Context, count: int) -> list[int]:
    """In the order of their coming, which is any for messages that are not awaited."""
    return sorted([await ctx.receive("x", int) for _ in range(count)])


@app.workflow
async def answering(ctx: Context, whom: str) -> int:
    question = await ctx.receive("question", int)
    await ctx.sleep(1)
    await ctx.send(whom, "answer", question + 1)
    await ctx.run(note, "answered")
    return await ctx.receive("question", int, timeout=60)


@app.workflow
async def talking(ctx: Context) -> list[Any]:
    running = ctx.rpc(answering, ctx.info.id)
    await ctx.send(running.id, "question", 3)
    answer = await ctx.receive("answer", int)
    promise = ctx.promise(name="own")
    words = [await ctx.settle(promise.id, 5), await ctx.settle(promise.id, 6)]
    await ctx.send(running.id, "question", 9)
    return [answer, *words, await promise, await running]


@app.workflow
async def reading_anew(ctx: Context, seen: int = 0) -> int:
    """Each run asks for more than it takes, and the next one finds it."""
    if not seen:
        for n in range(7):
            ctx.send(ctx.info.id, "x", n)
    await ctx.run(note, f"{seen} read")
    futures = [ctx.receive("x", int) for _ in range(4)]
    for future in futures[:2]:
        assert await future == seen, "they are in order"
        seen += 1
    if seen < 6:
        ctx.continue_as_new(seen)
    return await futures[2]


@app.workflow
async def sending_slowly(ctx: Context, to: str) -> None:
    for n in range(6):
        await ctx.send(to, "x", n)
        await ctx.sleep(n % 2)


@app.workflow
async def choosing(ctx: Context) -> list[int]:
    """Gives up what it waits for, again and again; what it gets then returns."""
    running = ctx.rpc(sending_slowly, ctx.info.id)
    got: list[int] = []
    while len(got) < 6:
        one, other = ctx.receive("x", int), ctx.receive("x", int)
        late = asyncio.create_task(waiting(ctx, 0.5))
        done, pending = await asyncio.wait({one, other, late}, return_when=asyncio.FIRST_COMPLETED)
        for future in pending:
            future.cancel()
        got += [future.result() for future in (one, other) if future in done]
    await running
    return sorted(got)


# -- in several partitions

TAGS = [next(f"t{n}" for n in range(100) if partition_of(f"t{n}", PARTITIONS) == there) for there in range(PARTITIONS)]


def abroad(id: str, name: str, away: int = 1) -> str:
    """An id that belongs to another partition than this one."""
    return f"{{{TAGS[(partition_of(id, PARTITIONS) + away) % PARTITIONS]}}}:{id}-{name}"


@app.workflow
async def calling_abroad(ctx: Context) -> list[Any]:
    id = ctx.info.id
    calls = [ctx.rpc(child, away, id=abroad(id, f"child-{away}", away)) for away in range(PARTITIONS)]
    return [*await asyncio.gather(*calls), await ctx.rpc(child, 1, id=abroad(id, "child-1"))]


@app.workflow
async def sending_abroad(ctx: Context) -> list[Any]:
    there = abroad(ctx.info.id, "sent")
    started = await ctx.detached(child, 7, id=there)
    return [started == there, await ctx.rpc(child, 7, id=there)]


@app.workflow
async def refused_abroad(ctx: Context) -> str:
    there = abroad(ctx.info.id, "taken")
    await ctx.detached(child, 2, id=there)
    try:
        await ctx.rpc(beginning_anew, id=there)
    except OtherFunction:
        await ctx.sleep(5)
        return await ctx.run(note, "was refused")
    return "never"


@app.workflow
async def canceling_abroad(ctx: Context) -> str:
    running = ctx.rpc(waiting_long, id=abroad(ctx.info.id, "long"))
    await ctx.sleep(1)
    await ctx.run(cancel_if_begun, abroad(ctx.info.id, "long"))
    try:
        return await running
    except Canceled:
        return await ctx.run(note, "was canceled")


async def cancel_if_begun(id: str) -> None:
    while True:  # it begins a moment after it was asked for
        try:
            await app.cancel(id)
        except NotFound:
            await asyncio.sleep(0.01)
        else:
            return


@app.workflow
async def taking_back_abroad(ctx: Context) -> str:
    running = ctx.rpc(child, 3, id=abroad(ctx.info.id, "left"))
    await ctx.sleep(1)
    running.cancel()
    await ctx.sleep(10)
    return "taken back"


@app.workflow
async def timing_out_abroad(ctx: Context) -> str:
    try:
        await ctx.rpc(waiting_long, id=abroad(ctx.info.id, "late"), timeout=3)
    except TimedOut:
        return "deadline"
    return "never"


@app.workflow
async def failing_abroad(ctx: Context) -> str:
    try:
        await ctx.rpc(failing, id=abroad(ctx.info.id, "fails"))
    except ValueError as error:
        return f"{error}"
    return "never"


@app.workflow
async def beginning_anew_abroad(ctx: Context, run: int = 1) -> list[str]:
    """Each run leaves a call behind that it does not wait for; what it waits for begins anew, too."""
    ctx.rpc(child, 1, id=abroad(ctx.info.id, f"left-{run}", 2))
    found = await ctx.rpc(beginning_anew, id=abroad(ctx.info.id, f"run-{run}"))
    if run < 2:
        ctx.continue_as_new(run + 1)
    await ctx.sleep(10)
    return [found]


@app.workflow
async def promising(ctx: Context, whom: str) -> list[Any]:
    promise = ctx.promise(name="theirs")
    word = await ctx.send(whom, "promise", promise.id)
    return [word, await promise]


@app.workflow
async def messages_abroad(ctx: Context) -> list[Any]:
    there = abroad(ctx.info.id, "listens")
    await ctx.detached(listening, 6, id=there)
    for n in range(3):
        ctx.send(there, "x", n)
    for n in range(3, 6):
        await ctx.send(there, "x", n)
    found: list[Any] = [await ctx.rpc(listening, 6, id=there)]
    for call in (ctx.send(there, "x", 7), ctx.settle(there, 7)):
        try:
            await call
        except (Ended, NotAllowed) as error:
            found.append(type(error).__name__)
    return found


@app.workflow
async def settling_abroad(ctx: Context) -> list[Any]:
    running = ctx.rpc(promising, ctx.info.id, id=abroad(ctx.info.id, "promises"))
    id = await ctx.receive("promise", str)
    words = [await ctx.settle(id, 5), await ctx.settle(id, 6)]
    return [*words, *(await running)[1:]]


@app.workflow
async def ending_abroad(ctx: Context, run: int = 1) -> list[Any]:
    """Each run ends while its messages are under way."""
    there = abroad(ctx.info.id, "listens")
    if run == 1:
        await ctx.detached(listening, 4, id=there)
    ctx.send(ctx.info.id, "y", run)
    reading = asyncio.create_task(read(ctx))
    await asyncio.sleep(0)
    ctx.send(there, "x", run)
    ctx.send(there, "x", 10 * run)
    if run < 2:
        ctx.continue_as_new(run + 1)
    return [await ctx.rpc(listening, 4, id=there), await reading, await read(ctx)]


async def read(ctx: Context) -> int:
    return await ctx.receive("y", int)


ABROAD: dict[Callable[..., Any], str] = {
    calling_abroad: "[0, 1, 2, 3, 1]",
    sending_abroad: "[True, 7]",
    refused_abroad: "was refused",
    canceling_abroad: "was canceled",
    taking_back_abroad: "taken back",
    timing_out_abroad: "deadline",
    failing_abroad: "it fails",
    beginning_anew_abroad: "['run 3']",
    messages_abroad: "[[0, 1, 2, 3, 4, 5], 'Ended', 'NotAllowed']",
    settling_abroad: "[True, False, 5]",
    ending_abroad: "[[1, 2, 10, 20], 1, 2]",
}
"""Each workflow that calls other partitions, and how it ends."""

TALKING = (talking, reading_anew, choosing, messages_abroad, settling_abroad, ending_abroad)
"""Those with messages. A worker finds out at the first of them that no older version is left."""

PROGRAMS: dict[Callable[..., Any], str] = {
    sequence: "['first', 'second']",
    going_on: "goes on",
    together: "['a', 'b', 'c', 'd', 'e']",
    children: "[1, 2, 3, 4, 5]",
    generations: "5",
    named_child: "[True, 7]",
    trying_again: "third time",
    task_trying_again: "third time",
    counting: "[1, 2, 3, 4, 5]",
    racing: "[1, 0, 5]",
    canceling_a_child: "was canceled",
    taking_back: "taken back",
    canceling_itself: "Canceled: ID was canceled",
    beginning_anew: "run 3",
    timing_out: "['timeout', 'deadline']",
    failing_in_a_group: "no",
    failing: "ValueError: it fails",
    changed: "[True, True, True]",
    controlled: "both",
    many_timers: "300",
    talking: "[4, True, False, 5, 9]",
    reading_anew: "6",
    choosing: "[0, 1, 2, 3, 4, 5]",
}
"""Each workflow, and how it ends."""
