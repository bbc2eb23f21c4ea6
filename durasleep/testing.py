"""A whole service in one process, with a clock that a test can move: months pass in milliseconds.

    async with durasleep.testing.env(app) as env:
        handle = await env.start(remind_daily, "ada@example.org")
        await env.skip(days=30)
        assert await handle == "reminded 30 times"

It is the real worker on fakeredis (``pip install "durasleep[testing]"``) or on your own server; ``sync_env`` is the
same without asyncio. The test's clock is the clock of the scripts, and stands still until something moves it.
``ctx.now()``, timers, deadlines, retries and schedules follow it. The clock of the process goes on: steps, and waits
between quick attempts, follow that one. Redis expires results after their retention by its own clock.
"""

# The private parts that an Env shares with its makers are not for users.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import math
import secrets
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import Any, Self, TypeVar

from durasleep.app import Durasleep, pointed_at
from durasleep.channel import Channel
from durasleep.client.client import Handle, Start, store_of, watch_waits
from durasleep.client.sync_waiting import check_waits
from durasleep.deprecation import warn_renamed
from durasleep.errors import Mismatch, Stalled, UsageError
from durasleep.model import Delivery, Duration, Kind, Place, PromiseId, State, check_id, duration_ms
from durasleep.protocol import journal, membership, server, streams
from durasleep.protocol.journal import PromiseRecord
from durasleep.protocol.timers import Fired
from durasleep.query import status
from durasleep.query.search import DueItem as DueItem  # noqa: PLC0414 - users import it from here
from durasleep.query.status import PromiseStatus
from durasleep.query.view import View
from durasleep.query.waiting_on import Pending
from durasleep.runtime.definition import definition_of
from durasleep.runtime.recording import Verdict, check
from durasleep.runtime.waits import Wait
from durasleep.transport.connector import AnyClient
from durasleep.worker.loops.reaper import take_over
from durasleep.worker.worker import Worker

_STANDS_S = 1.0  # of real time: longer than another task of the test needs to produce the awaited result
_WATCH_S = 0.02  # between two looks at whether the awaited result can still come
_WATCH_SYNC_S = 0.1  # the same for a thread, which attaches to its inbox again after each
PATIENCE_S = 30.0  # of real time, for one call: longer than a year of daily timers takes, or a step of a test should
LOOK_S = 0.001  # between two looks at whether anything still runs
TIMERS_MAX = 1_000

T = TypeVar("T")
Function = Callable[..., Any]


class Mocked:
    """A replaced function; as a context manager it restores the original at its end."""

    def __init__(self, overrides: dict[Function, Function], real: Function, stand_in: Any) -> None:
        self.stand_in = stand_in
        self._overrides = overrides
        self._real = real
        self._before = overrides.get(real)
        overrides[real] = stand_in

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._before is None:
            self._overrides.pop(self._real, None)
        else:
            self._overrides[self._real] = self._before


class Env:
    """What ``env`` gives. The application itself uses the same Redis, so its own methods work, too."""

    def __init__(self, app: Durasleep, groups: Sequence[str], *, concurrency: int, patience_s: float) -> None:
        self.app = app
        self.groups = groups
        self._patience_s = patience_s
        self._concurrency = concurrency
        self._overrides: dict[Function, Function] = {}
        self._workers: dict[str, tuple[Worker, asyncio.Task[None]]] = {}
        self._names = 0
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._moving = 0
        self._watching = asyncio.Lock()

    # -- running

    async def start(self, fn: Function | str, *args: Any, id: str | None = None, **kwargs: Any) -> Handle[Any]:
        """Start an execution, under a new id unless one is given; await its handle for the result.

        The clock stands still meanwhile. Awaiting the handle raises Stalled if the result cannot come: because the
        clock would have to move, or because nothing else will produce it. The same holds for every wait for a result in
        the test itself.
        """
        self._names += 1
        return await self.app.rpc(id or f"test-{self._names}", fn, *args, **kwargs)

    async def run(self, fn: Function | str, *args: Any, id: str | None = None, **kwargs: Any) -> Any:
        """Start an execution, and move the clock from due time to due time until it has ended; returns its result.

        Raises the error of the execution, or Stalled if it waits for something that no clock brings: a promise, a
        person, another group.
        """
        handle = await self.start(fn, *args, id=id, **kwargs)
        deadline = self._deadline()
        with self._in_motion():
            while True:
                fired = await self._settle()
                record = await self._head(handle.id)
                if record is None or record.state is not State.PENDING:
                    return await handle.result()
                if fired.next_due_ms is None or record.place is Place.HALTED:
                    raise Stalled(await self._what_keeps(handle.id))
                await self._check(deadline, fired, f"{handle.id} has not ended")
                await self._move(fired, fired.next_due_ms)

    async def send(
        self,
        id: str,
        channel: Channel[Any] | str,
        value: Any = None,
        /,
        *,
        key: str | None = None,
        start: Start | None = None,
    ) -> Delivery:
        """Send a message to an execution, as ``app.send`` does; ``start`` begins the execution if there is none.

        It is ``"delivered"`` only if the execution waits for it by now: ``run_until_idle`` lets it come so far. A
        ``channel``, a ``value`` and a ``key`` are refused as there.
        """
        return await self.app.send(id, channel, value, key=key, start=start)

    async def ask(
        self,
        id: str,
        channel: Channel[Any] | str,
        value: Any = None,
        /,
        *,
        timeout: Duration = PATIENCE_S,
        returns: Any = Any,
        start: Start | None = None,
    ) -> Any:
        """Send a message to an execution, and wait for its answer, as ``app.ask`` does with these arguments.

        The clock stands still meanwhile. It raises Stalled if the answer cannot come, and TimedOut if it does not come
        within ``timeout`` of real time: seconds, a timedelta, or text such as ``"30s"``, by default 30 s.
        """
        try:
            return await self.app.ask(id, channel, value, timeout=timeout, returns=returns, start=start)
        except Stalled:
            raise Stalled(await self._what_keeps(check_id(id))) from None

    async def _has_settled(self, id: PromiseId) -> bool:
        store = await store_of(self.app)
        return (await store.run(status.read(store.keys(id), id))).is_final

    async def _head(self, id: PromiseId) -> PromiseRecord | None:
        store = await store_of(self.app)
        return await store.call(journal.read_record(store.keys(id), id))

    @contextmanager
    def _in_motion(self) -> Generator[None]:
        """While the clock is about to be moved, no wait is stalled."""
        self._moving += 1
        try:
            yield
        finally:
            self._moving -= 1

    async def _watch(self, id: PromiseId, hearing: Coroutine[Any, Any, PromiseStatus]) -> PromiseStatus:
        """Wait for a result, or raise Stalled when nothing runs and nothing is due any more."""
        waiting = asyncio.ensure_future(hearing)
        stands_since: float | None = None
        try:
            while True:
                await asyncio.wait((waiting,), timeout=_WATCH_S)
                if waiting.done():
                    return waiting.result()
                stands_since = await self._here(self._standing_since, id, stands_since)
        finally:
            waiting.cancel()

    async def _standing_since(self, id: PromiseId, since: float | None) -> float | None:
        """Since when nothing brings the awaited result, if nothing does; Stalled if that is so for too long."""
        if not await self._stands(id):
            return None
        if since is not None and time.monotonic() - since > _STANDS_S:
            raise Stalled(await self._what_keeps(id))
        return since or time.monotonic()

    async def _here(self, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Call it in the loop of the workers: a client for tests may run its application in another one."""
        if asyncio.get_running_loop() is self._loop:
            return await fn(*args)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(fn(*args), self._loop))

    def _check_sync(self, id: PromiseId, since: float | None) -> float | None:
        """As ``_standing_since``, for a wait of ``app.sync`` in another thread."""
        if threading.get_ident() == self._thread:
            raise Stalled(f"{id} is awaited in the event loop of its workers, which cannot run meanwhile: await it")
        return asyncio.run_coroutine_threadsafe(self._standing_since(id, since), self._loop).result()

    async def _stands(self, id: PromiseId) -> bool:
        """Whether it has not settled, and only the test itself could change that."""
        async with self._watching:  # one look serves all waits
            if self._moving or not self._workers or await self._busy_with():
                return False
            fired = await self._any_worker().fire()
            if fired.due or fired.closing or await self._busy_with():
                return False
        return not await self._has_settled(id)

    async def _what_keeps(self, id: PromiseId) -> str:
        description = await self.app.describe(id)
        waits = ", ".join(map(_awaited, description.waiting_on))
        inside = ", ".join(f"{one.caller} for {one.awaited}" for one in self._waits())
        reason = description.reason or (f"it waits for {waits}" if waits else "")
        if not reason and description.kind != Kind.EXECUTION:
            reason = "nobody has settled it"
        elif not reason:
            reason = f"what runs waits: {inside}" if inside else "nobody serves its group"
        said = f"{id} is {description.status}: {reason}"
        next_due = [f"{one.id} at {_shown(one.due_at_ms)}" for one in await self.app.timers(1)]
        if next_due and description.status != Place.HALTED:
            stands = _shown(_ms(await self._any_worker().fire()))
            said += f"; the clock stands at {stands}, next is {next_due[0]}: move it, env.skip(...) or env.run(...)"
        return said

    def _waits(self) -> list[Wait]:
        return [wait for worker, _ in self._workers.values() for wait in worker.waits()]

    async def run_until_idle(self) -> datetime | None:
        """Let everything run that can run now; returns when the next timer is due, or None if there is none.

        Raises Stalled if it does not end.
        """
        fired = await self._settle()
        return None if fired.next_due_ms is None else _instant(fired.next_due_ms)

    async def settle(self) -> datetime | None:
        """The old name of ``run_until_idle``."""
        warn_renamed("settle", "run_until_idle")
        return await self.run_until_idle()

    def _deadline(self) -> float:
        return time.monotonic() + self._patience_s

    async def _settle(self) -> Fired:
        deadline = self._deadline()
        while True:
            relays = self._relays()
            busy = await self._busy_with()
            if not busy:
                fired = await self._any_worker().fire()
                busy = f"what the firing of {fired.due} timers brings" if fired.due or fired.closing else ""
                busy = busy or await self._busy_with()
                if not busy and self._relays() != relays:  # something was brought to a partition after it was fired
                    busy = "a call from one partition to another"
                if not busy:
                    return fired
            if time.monotonic() > deadline:
                raise Stalled(f"after {self._patience_s:g} s this still runs: {busy}")
            await asyncio.sleep(LOOK_S)

    async def _check(self, deadline: float, fired: Fired, what: str) -> None:
        """Stalled, saying that ``what`` is not done yet, if a call takes too long for a test."""
        if time.monotonic() > deadline:
            next_due = ", ".join([f"{one.id} at {_shown(one.due_at_ms)}" for one in await self.app.timers(3)])
            stands = f"the clock stands at {_shown(_ms(fired))} and {what}"
            raise Stalled(
                f"after {self._patience_s:g} s {stands}; next is {next_due}: "
                "if that is no endless loop, give env a larger patience_s"
            )

    async def skip(
        self,
        duration: Duration = 0,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Move the clock ahead. It stops at each due time on the way, and lets everything run that is due then.

        The distance is the sum of ``duration`` (seconds, a timedelta, or text such as ``"2d"``), ``days``, ``hours``,
        ``minutes`` and ``seconds``: ``await env.skip(days=3, hours=1)``. Stalled if the executions on the way do not
        come to rest.
        """
        total = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        deadline = self._deadline()
        fired = await self._settle()
        target_ms = _ms(fired) + duration_ms(duration) + duration_ms(total)
        with self._in_motion():
            while fired.next_due_ms is not None and fired.next_due_ms <= target_ms:
                await self._check(deadline, fired, f"has not reached {_shown(target_ms)}")
                await self._move(fired, fired.next_due_ms)
                fired = await self._settle()
            await self._move(fired, target_ms)
            await self._settle()

    # -- looking

    async def now(self) -> datetime:
        """The clock of the test."""
        return _instant(_ms(await self._any_worker().fire()))

    async def timers(self, limit: int = TIMERS_MAX) -> list[DueItem]:
        """The next due items, soonest first; at most ``limit``."""
        await self.run_until_idle()
        return await self.app.timers(limit)

    async def view(self, id: str) -> View:
        """What an execution publishes, as soon as nothing runs any more; raises NotFound if there is none."""
        await self.run_until_idle()
        return await self.app.view(id)

    async def replay(self, id: str) -> Verdict:
        """Run today's code over the journal of an execution; Mismatch, with the difference, if it goes another way.

        Raises NotFound if there is no such execution, and InvalidId for an ``id`` that cannot be used.
        """
        await self.run_until_idle()
        verdict = check(await self.app.export(check_id(id)), self.app.registry, self.app.codec, self.app.settings)
        if not verdict.ok:
            raise Mismatch(f"{id}: {verdict.text}")
        return verdict

    # -- interfering

    def mock(self, fn: Function | str, stand_in: Any) -> Mocked:
        """Call ``stand_in`` instead of a step, task or workflow, which is given itself or by its name.

        It takes the arguments without the context; a Mock or AsyncMock works. It stays until the end of the env or, as
        a context manager, until the end of its block. UsageError for a name that the application does not have.
        """
        return Mocked(self._overrides, self._function(fn), stand_in)

    async def crash_worker(self) -> None:
        """The workers die as by kill -9, and others take over their executions at once."""
        dead = [await self._stop(group) for group in tuple(self._workers)]
        for group in self.groups:
            await self._begin(group)
        store = await store_of(self.app)
        for worker in dead:
            for keys in store.keyspaces:
                beat = await store.call(membership.read_beat(keys, worker.consumer))
                await take_over(
                    store,
                    keys,
                    worker.consumer,
                    worker.group,
                    beat="" if beat is None else str(beat),
                    max_attempts=self.app.settings.max_attempts,
                )

    # -- its parts

    async def _begin(self, group: str) -> None:
        """Start the worker of a group."""
        worker = self.app.worker(group=group, concurrency=self._concurrency, overrides=self._overrides)
        running = asyncio.create_task(worker.run(), name=f"durasleep-test-{group}")
        ready = asyncio.create_task(worker.ready.wait())
        await asyncio.wait((running, ready), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if running.done():
            await running  # raises the error that kept it from starting
        self._workers[group] = (worker, running)

    async def _stop(self, group: str) -> Worker:
        worker, running = self._workers.pop(group)
        worker.crash()
        await running
        return worker

    async def _close(self) -> None:
        """End the workers, and remove everything that was kept in Redis."""
        for group in tuple(self._workers):
            await self._stop(group)
        await self.app.aclose()  # first, because its inbox would come back while the rest is removed
        store = await store_of(self.app)
        tags = [(keys.tag, keys.slot) for keys in store.keyspaces]
        for tag, slot in (*tags, (f"{{{self.app.namespace}}}:", store.partitions.meta_slot)):
            cursor = b"0"
            while True:
                cursor, keys = await store.call(server.scan(f"{tag}*", cursor, count=1000).at(slot))
                if keys:
                    await store.call(server.delete(keys))
                if cursor == b"0":
                    break

    def _any_worker(self) -> Worker:
        return next(iter(self._workers.values()))[0]

    def _relays(self) -> int:
        return sum(worker.relays for worker, _ in self._workers.values())

    async def _busy_with(self) -> str:
        """The calls that run, except those that wait for another result or for a worker; empty if there are none."""
        held = [lease.id for worker, _ in self._workers.values() for lease in worker.held()]
        waits = self._waits()
        waiting = {wait.caller for wait in waits} | {wait.caller.rpartition("~")[0] for wait in waits}
        if running := sorted({*held} - waiting):
            return ", ".join(running)
        if any(worker.is_relaying for worker, _ in self._workers.values()):
            return "a call from one partition to another"
        for wait in waits:
            if await self._has_settled(wait.awaited):
                return wait.caller  # it will get the result in a moment
        store = await store_of(self.app)
        queues = [
            queue for worker, _ in self._workers.values() for queue in (worker.group, f"{worker.group}/{worker.name}")
        ]
        lengths = await asyncio.gather(
            *(store.call(streams.count_entries(keys.queue(queue))) for keys in store.keyspaces for queue in queues)
        )
        left = sum(lengths) - len(held)
        return f"{left} of {', '.join(queues)} that no worker holds" if left > 0 else ""

    async def _move(self, seen: Fired, instant_ms: int) -> None:
        if instant_ms > _ms(seen):
            await self._stand_at(instant_ms)

    async def _stand_at(self, instant_ms: int) -> None:
        """Set the clock to an instant, in ms since 1970."""
        store = await store_of(self.app)
        for keys in store.keyspaces:
            await store.call(server.stop_clock(keys, instant_ms))

    def _function(self, fn: Function | str) -> Function:
        if not isinstance(fn, str):
            known = definition_of(fn)
            return fn if known is None else known.fn
        named = self.app.registry.get(fn)
        if named is None:
            raise UsageError(f"this application has no function {fn!r} that could be replaced")
        return named.fn


class SyncHandle:
    """The handle of ``SyncEnv.start``."""

    def __init__(self, env: SyncEnv, handle: Handle[Any]) -> None:
        self.id = handle.id
        self.disposition = handle.disposition
        self._env = env
        self._handle = handle

    def result(self, timeout: Duration | None = None) -> Any:
        """The value. Raises the error of the execution, or Stalled if it cannot come while the clock stands still.

        WaitTimeout after ``timeout`` of real time: seconds, a timedelta, or text such as ``"30s"``. By default there is
        no limit.
        """
        return self._env.call(self._handle.result, timeout)

    def done(self) -> bool:
        """Whether it has settled; raises NotFound if it is not kept any more."""
        return self._env.call(self._handle.done)

    def cancel(self, *, force: bool = False) -> str:
        """As ``Handle.cancel``; with ``force`` it ends without running its code again."""
        return self._env.call(self._handle.cancel, force=force)


class SyncEnv:
    """``Env`` without asyncio: its event loop runs in a thread, and each call waits for its result."""

    def __init__(self, env: Env, loop: asyncio.AbstractEventLoop) -> None:
        self.app = env.app
        self._env = env
        self._loop = loop

    def call(self, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        """Run another method of the application in the loop of the env: ``env.call(app.promises.resolve, id, 1)``."""
        return asyncio.run_coroutine_threadsafe(fn(*args, **kwargs), self._loop).result()

    def start(self, fn: Function | str, *args: Any, id: str | None = None, **kwargs: Any) -> SyncHandle:
        """As ``Env.start``; ``handle.result()`` is the result."""
        return SyncHandle(self, self.call(self._env.start, fn, *args, id=id, **kwargs))

    def run(self, fn: Function | str, *args: Any, id: str | None = None, **kwargs: Any) -> Any:
        """As ``Env.run``."""
        return self.call(self._env.run, fn, *args, id=id, **kwargs)

    def send(
        self,
        id: str,
        channel: Channel[Any] | str,
        value: Any = None,
        /,
        *,
        key: str | None = None,
        start: Start | None = None,
    ) -> Delivery:
        """As ``Env.send``."""
        return self.call(self._env.send, id, channel, value, key=key, start=start)

    def ask(
        self,
        id: str,
        channel: Channel[Any] | str,
        value: Any = None,
        /,
        *,
        timeout: Duration = PATIENCE_S,
        returns: Any = Any,
        start: Start | None = None,
    ) -> Any:
        """As ``Env.ask``."""
        return self.call(self._env.ask, id, channel, value, timeout=timeout, returns=returns, start=start)

    def run_until_idle(self) -> datetime | None:
        """As ``Env.run_until_idle``."""
        return self.call(self._env.run_until_idle)

    def settle(self) -> datetime | None:
        """The old name of ``run_until_idle``."""
        warn_renamed("settle", "run_until_idle")
        return self.run_until_idle()

    def skip(
        self,
        duration: Duration = 0,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """As ``Env.skip``."""
        self.call(self._env.skip, duration, days=days, hours=hours, minutes=minutes, seconds=seconds)

    def now(self) -> datetime:
        """As ``Env.now``."""
        return self.call(self._env.now)

    def timers(self, limit: int = TIMERS_MAX) -> list[DueItem]:
        """As ``Env.timers``."""
        return self.call(self._env.timers, limit)

    def view(self, id: str) -> View:
        """As ``Env.view``."""
        return self.call(self._env.view, id)

    def replay(self, id: str) -> Verdict:
        """As ``Env.replay``."""
        return self.call(self._env.replay, id)

    def mock(self, fn: Function | str, stand_in: Any) -> Mocked:
        """As ``Env.mock``."""
        return self._env.mock(fn, stand_in)

    def crash_worker(self) -> None:
        """As ``Env.crash_worker``."""
        self.call(self._env.crash_worker)


@contextmanager
def sync_env(app: Durasleep, **options: Any) -> Generator[SyncEnv]:
    """As ``env``, for tests that are plain functions: ``app`` and the other options are those of ``env``."""
    with ThreadPoolExecutor(1, thread_name_prefix="durasleep-test") as thread, asyncio.Runner() as runner:
        loop = runner.get_loop()
        running = thread.submit(loop.run_forever)
        made = env(app, **options)
        try:
            inside = asyncio.run_coroutine_threadsafe(made.__aenter__(), loop).result()
            error: BaseException | None = None
            try:
                yield SyncEnv(inside, loop)
            except BaseException as raised:
                error = raised
                raise
            finally:
                leaving = made.__aexit__(None if error is None else type(error), error, None)
                asyncio.run_coroutine_threadsafe(leaving, loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            running.result()


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
    partitions: int = 1,
) -> AsyncGenerator[Env]:
    """A worker of ``app`` for each of its ``groups`` (by default its own), and a clock to move.

    ``redis`` is the URL or client of a real server. The test then uses a namespace of its own there, and removes it.
    Without it, the test runs on fakeredis. In ``debug`` every activation is run twice and compared. ``always_suspend``
    evicts every workflow at each of its awaits, so that no test passes only because a workflow stayed in memory. Each
    worker runs at most ``concurrency`` executions at a time. A call that takes longer than ``patience_s`` of real time
    raises Stalled, and says what it waits for. The namespace has as many ``partitions`` as yours has in production; by
    default one. Raises UsageError if fakeredis is needed and not installed.
    """
    served = groups or (app.group,)
    settings = replace(
        app.settings,
        movable_clock=True,
        clock_ahead_max_s=math.inf,
        dead_after_s=math.inf,  # where the clock stands still, so do the heartbeats
        debug=debug,
        always_suspend=always_suspend,
    )
    source = _fake() if redis is None else redis
    async with AsyncExitStack() as stack:
        namespace = f"test-{secrets.token_hex(6)}"
        stack.enter_context(pointed_at(app, source, namespace=namespace, settings=settings, groups=served))
        stack.push_async_callback(app.aclose)
        await app.init(partitions=partitions)
        made = Env(app, served, concurrency=concurrency, patience_s=patience_s)
        store = await store_of(app)
        stack.push_async_callback(made._close)
        await made._stand_at(await store.run(server.now_ms(store.keyspaces[0])))
        watch_waits(app, made._watch)
        check_waits(app.sync, made._check_sync, _WATCH_SYNC_S)
        for group in made.groups:
            await made._begin(group)
        yield made


def _fake() -> AnyClient:
    if not all(map(find_spec, ("fakeredis", "lupa"))):  # fakeredis runs the scripts with lupa
        raise UsageError(
            'without redis=... the tests run on fakeredis: pip install "durasleep[testing]", or name a server'
        )
    import fakeredis

    return fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer(version=(7, 4)))


def _awaited(one: Pending) -> str:
    match one.kind:
        case Kind.RECEIVE:
            return f"a message on channel {one.name!r}"
        case Kind.SEND | Kind.SETTLE:
            return one.text
        case kind:
            return f"{kind} {one.id} {one.name}".rstrip()


def _ms(fired: Fired) -> int:
    return fired.server_us // 1000


def _shown(ms: int) -> str:
    return f"{_instant(ms):%Y-%m-%d %H:%M:%S}"


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def __getattr__(name: str) -> Any:
    if name != "Timer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_renamed("Timer", "DueItem")
    return DueItem
