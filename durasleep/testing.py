"""A whole service in one process, whose clock can be moved: tests in milliseconds what takes months.

    async with durasleep.testing.env(app) as env:
        handle = await env.start(remind_daily, "ada@example.org")
        await env.skip(days=30)
        assert await handle == "reminded 30 times"

It is the real worker on fakeredis (``pip install "durasleep[testing]"``) or on a server of yours. The clock that moves
is that of the scripts: ``ctx.now()``, timers, deadlines, retries and schedules go by it. The process's own clock stays,
and what Redis itself removes after a time (results, after their retention) goes by the server's.
"""

# What an Env shares with what makes it is not for its users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any, Self

from durasleep.app import Durasleep, pointed_at
from durasleep.client import Handle, store_of
from durasleep.errors import Mismatch, Stalled, UsageError
from durasleep.model import Place, PromiseId, State, check_id, duration_ms
from durasleep.runtime.definition import definition_of
from durasleep.runtime.recording import Verdict, check
from durasleep.store import reads
from durasleep.store.commands import Command, Fired
from durasleep.store.connection import AnyClient
from durasleep.worker.reaper import take_over
from durasleep.worker.worker import Worker

PATIENCE_S = 30.0  # of real time, for one call: longer than a year of days takes, or a step of a test should
LOOK_S = 0.001  # between two looks at whether anything still runs
TIMERS_MAX = 1_000

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Timer:
    """Something that falls due."""

    id: str
    kind: str
    """``timer`` or ``promise``; the ``deadline`` of an execution, its delayed ``start`` or ``retry``; or ``cron``."""
    name: str
    function: str | None
    due_at: datetime


class Mocked:
    """A stand-in at work; as a context manager it puts back what was there before."""

    def __init__(self, stand_ins: dict[Function, Function], real: Function, stand_in: Any) -> None:
        self.stand_in = stand_in
        self._stand_ins = stand_ins
        self._real = real
        self._before = stand_ins.get(real)
        stand_ins[real] = stand_in

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._before is None:
            self._stand_ins.pop(self._real, None)
        else:
            self._stand_ins[self._real] = self._before


class Env:
    """What ``env`` gives; the application itself is pointed at it, so its own verbs work, too."""

    def __init__(self, app: Durasleep, groups: Sequence[str], *, concurrency: int, patience_s: float) -> None:
        self.app = app
        self.groups = groups
        self._patience_s = patience_s
        self._concurrency = concurrency
        self._stand_ins: dict[Function, Function] = {}
        self._workers: dict[str, tuple[Worker, asyncio.Task[None]]] = {}
        self._names = 0

    # -- running

    async def start(self, fn: Function | str, *args: Any, id: str | None = None, **kwargs: Any) -> Handle[Any]:
        """Start an execution, under an id of its own unless one is given; await its handle for the result."""
        self._names += 1
        return await self.app.rpc(id or f"test-{self._names}", fn, *args, **kwargs)

    async def run(self, fn: Function | str, *args: Any, id: str | None = None, **kwargs: Any) -> Any:
        """Start an execution and move the clock from due time to due time until it has ended; its result.

        Raises what it raised, or Stalled if it waits for what no clock brings: a promise, a person, another group.
        """
        handle = await self.start(fn, *args, id=id, **kwargs)
        deadline = self._deadline()
        while True:
            fired = await self._settle()
            store = await store_of(self.app)
            head = await store.call(reads.read_head(store.keys(handle.id), handle.id))
            if head is None or head.state is not State.PENDING:
                return await handle.result()
            if fired.next_due_ms is None or head.place is Place.HALTED:
                raise Stalled(await self._what_keeps(handle.id))
            await self._check(deadline, fired, f"{handle.id} has not ended")
            await self._move(fired, fired.next_due_ms)

    async def _what_keeps(self, id: PromiseId) -> str:
        description = await self.app.describe(id)
        waits = ", ".join(f"{one.kind} {one.id} {one.name}".rstrip() for one in description.waiting_on)
        reason = description.reason or (f"it waits for {waits}" if waits else "nobody serves its group")
        return f"{id} is {description.status}: {reason}"

    async def settle(self) -> datetime | None:
        """Let everything run that can run now; answers when the next timer is due."""
        fired = await self._settle()
        return None if fired.next_due_ms is None else _instant(fired.next_due_ms)

    def _deadline(self) -> float:
        return time.monotonic() + self._patience_s

    async def _settle(self) -> Fired:
        deadline = self._deadline()
        while True:
            if not await self._is_busy():
                fired = await self._any_worker().fire()
                if not (fired.due or fired.closing or await self._is_busy()):
                    return fired
            if time.monotonic() > deadline:
                running = sorted(lease.id for worker, _ in self._workers.values() for lease in worker.held())
                raise Stalled(f"after {self._patience_s:g} s there still runs {', '.join(running) or 'something'}")
            await asyncio.sleep(LOOK_S)

    async def _check(self, deadline: float, fired: Fired, what: str) -> None:
        """Stalled, saying ``what`` is not done yet, for a way that is too long for a test."""
        if time.monotonic() > deadline:
            next_due = ", ".join([f"{one.id} at {_shown(one.due_at_ms)}" for one in await self.app.timers(3)])
            stands = f"the clock stands at {_shown(_ms(fired))} and {what}"
            raise Stalled(
                f"after {self._patience_s:g} s {stands}; next is {next_due}: "
                "if that is no endless loop, give env a larger patience_s"
            )

    async def skip(
        self,
        duration: float | timedelta = 0,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Move the clock on, stopping at each due time on the way to let everything run that it brings."""
        total = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        deadline = self._deadline()
        fired = await self._settle()
        target_ms = _ms(fired) + duration_ms(duration) + duration_ms(total)
        while fired.next_due_ms is not None and fired.next_due_ms <= target_ms:
            await self._check(deadline, fired, f"has not reached {_shown(target_ms)}")
            await self._move(fired, fired.next_due_ms)
            fired = await self._settle()
        await self._move(fired, target_ms)
        await self._settle()

    # -- looking

    async def now(self) -> datetime:
        """The moved clock."""
        return _instant(_ms(await self._any_worker().fire()))

    async def timers(self, limit: int = TIMERS_MAX) -> list[Timer]:
        """What falls due next, soonest first."""
        await self.settle()
        found = await self.app.timers(limit)
        return [Timer(one.id, one.kind, one.name, one.func, _instant(one.due_at_ms)) for one in found]

    async def replay(self, id: str) -> Verdict:
        """Run today's code over the journal of an execution; Mismatch, with the difference, if it goes another way."""
        await self.settle()
        verdict = check(await self.app.export(check_id(id)), self.app.registry, self.app.codec, self.app.settings)
        if not verdict.ok:
            raise Mismatch(f"{id}: {verdict.text}")
        return verdict

    # -- interfering

    def mock(self, fn: Function | str, stand_in: Any) -> Mocked:
        """Call ``stand_in`` in place of a step, task or workflow, given itself or by its name.

        It takes the arguments without the context; a Mock or AsyncMock will do. It stays until the end of the env or,
        used as a context manager, of its block.
        """
        return Mocked(self._stand_ins, self._function(fn), stand_in)

    async def crash_worker(self) -> None:
        """The workers die as by kill -9, and others take over at once what they held."""
        dead = [await self._stop(group) for group in tuple(self._workers)]
        for group in self.groups:
            await self._begin(group)
        store = await store_of(self.app)
        for worker in dead:
            beat = await store.call(reads.read_beat(store.keys(), worker.consumer))
            await take_over(
                store,
                worker.consumer,
                worker.group,
                beat="" if beat is None else str(beat),
                max_attempts=self.app.settings.max_attempts,
            )

    # -- its parts

    async def _begin(self, group: str) -> None:
        """Start the worker of a group."""
        worker = self.app.worker(group=group, concurrency=self._concurrency, stand_ins=self._stand_ins)
        running = asyncio.create_task(worker.run(), name=f"durasleep-test-{group}")
        ready = asyncio.create_task(worker.ready.wait())
        await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if running.done():
            await running  # raises what kept it from beginning
        self._workers[group] = (worker, running)

    async def _stop(self, group: str) -> Worker:
        worker, running = self._workers.pop(group)
        worker.crash()
        await running
        return worker

    async def _close(self) -> None:
        """End the workers and remove everything that was kept."""
        for group in tuple(self._workers):
            await self._stop(group)
        await self.app.aclose()  # its inbox would come back while the rest is removed
        store = await store_of(self.app)
        for pattern in (f"{store.keys().tag}*", f"{{{self.app.namespace}}}:*"):
            cursor = b"0"
            while True:
                cursor, keys = await store.call(
                    Command([b"SCAN", cursor, b"MATCH", pattern.encode(), b"COUNT", b"1000"], lambda reply: reply)
                )
                if keys:
                    await store.call(Command([b"DEL", *keys], int))
                if cursor == b"0":
                    break

    def _any_worker(self) -> Worker:
        return next(iter(self._workers.values()))[0]

    async def _is_busy(self) -> bool:
        """Whether anything runs, or waits for a worker."""
        if any(worker.running for worker, _ in self._workers.values()):
            return True
        store = await store_of(self.app)
        queues = [
            queue for worker, _ in self._workers.values() for queue in (worker.group, f"{worker.group}/{worker.name}")
        ]
        lengths = await asyncio.gather(
            *(store.call(Command([b"XLEN", store.keys().queue(queue).encode()], int)) for queue in queues)
        )
        return any(lengths)

    async def _move(self, seen: Fired, instant_ms: int) -> None:
        """To an instant, or a little past it by what has gone by since the clock was seen."""
        step_ms = instant_ms - _ms(seen)
        if step_ms > 0:
            store = await store_of(self.app)
            await store.call(Command([b"INCRBY", store.keys().clock.encode(), b"%d" % step_ms], int))

    def _function(self, fn: Function | str) -> Function:
        if not isinstance(fn, str):
            known = definition_of(fn)
            return fn if known is None else known.fn
        named = self.app.registry.get(fn)
        if named is None:
            raise UsageError(f"this application has no function {fn!r} to put another one in place of")
        return named.fn


@asynccontextmanager
async def env(
    app: Durasleep,
    *,
    redis: str | AnyClient | None = None,
    groups: Sequence[str] = (),
    debug: bool = True,
    always_suspend: bool = False,
    concurrency: int = 100,
    patience_s: float = PATIENCE_S,
) -> AsyncGenerator[Env]:
    """A worker of ``app`` for each of its ``groups`` (by default its own), and a clock to move.

    ``redis`` is a URL or client of a real server, where a namespace of its own is used and removed; else it is
    fakeredis. In ``debug`` every activation is run twice and compared. ``always_suspend`` puts every workflow away at
    each of its awaits, so that nothing is right only because it stayed in memory. A call that takes longer than
    ``patience_s`` of real time raises Stalled and says what keeps it.
    """
    settings = replace(
        app.settings, movable_clock=True, clock_ahead_max_s=math.inf, debug=debug, always_suspend=always_suspend
    )
    source = _fake() if redis is None else redis
    async with AsyncExitStack() as stack:
        stack.enter_context(pointed_at(app, source, namespace=f"test-{secrets.token_hex(6)}", settings=settings))
        stack.push_async_callback(app.aclose)
        made = Env(app, groups or (app.group,), concurrency=concurrency, patience_s=patience_s)
        await store_of(app)
        stack.push_async_callback(made._close)
        for group in made.groups:
            await made._begin(group)
        yield made


def _fake() -> AnyClient:
    if not all(map(find_spec, ("fakeredis", "lupa"))):  # it runs the scripts with lupa
        raise UsageError(
            'without redis=... the tests run on fakeredis: pip install "durasleep[testing]", or name a server'
        )
    import fakeredis

    return fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(version=(7, 4)))


def _ms(fired: Fired) -> int:
    return fired.server_us // 1000


def _shown(ms: int) -> str:
    return f"{_instant(ms):%Y-%m-%d %H:%M:%S}"


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
