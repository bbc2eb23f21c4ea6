"""A worker: all its loops, from the first heartbeat to the last lease that is released."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any

from durasleep import humanize
from durasleep.codec import Codec
from durasleep.errors import (
    DurasleepError,
    SchemaMismatch,
    StoreRefused,
    StoreUnavailable,
    ThreadsLost,
    UnsupportedServer,
    UsageError,
)
from durasleep.model import check_name
from durasleep.observe.health import Health
from durasleep.observe.notify import Notify
from durasleep.observe.telemetry import Telemetry
from durasleep.protocol import server, timers
from durasleep.protocol.commit import Lease
from durasleep.protocol.keys import Keyspace
from durasleep.protocol.membership import Beat
from durasleep.protocol.partitions import PARTITIONS_MAX
from durasleep.protocol.slots import Address
from durasleep.protocol.timers import Fired
from durasleep.query import doctor
from durasleep.runtime.definition import Overrides, Registry
from durasleep.runtime.middleware import Middleware
from durasleep.runtime.waits import Wait
from durasleep.settings import Settings
from durasleep.transport.batching import RETRY_FIRST_S, RETRY_MAX_S
from durasleep.transport.connector import Connector
from durasleep.transport.outage import Outage
from durasleep.transport.reply_errors import is_of_moving_slot
from durasleep.transport.store import Store
from durasleep.worker.execution.executor import Executor
from durasleep.worker.execution.holder import Holder, MakeHolder, Surroundings
from durasleep.worker.execution.jam import Jam
from durasleep.worker.execution.threads import post
from durasleep.worker.loops.declaring import Declaring
from durasleep.worker.loops.heartbeat import Heartbeat
from durasleep.worker.loops.heartbeats import Heartbeats
from durasleep.worker.loops.loop_watch import LoopWatch
from durasleep.worker.loops.pulse import Pulse
from durasleep.worker.serving import Serving, cancel
from durasleep.worker.servings import Servings
from durasleep.worker.sharing import Sharing
from durasleep.worker.turns import Turns

logger = logging.getLogger("durasleep")

FIRE_ONLY = "fire-only"
"""The group of workers that only fire timers: it has no queue."""
LOOP_RETRY_S = 1.0  # after a loop failed; a broken Redis must not be asked in a tight loop


def default_name() -> str:
    """A worker name that says where it runs. Redis takes only ASCII: other letters are written as in DNS."""
    host = socket.gethostname()
    spelled = host if host.isascii() else host.encode("punycode").decode()
    plain = "".join(char if char.isalnum() or char in "_.-" else "-" for char in spelled)
    return f"{plain[:50] or 'worker'}-{os.getpid()}"


def check_partitions(partitions: Collection[int]) -> frozenset[int]:
    """Numbers of partitions; UsageError if they cannot be."""
    wrong = [number for number in partitions if not 0 <= number < PARTITIONS_MAX]
    if wrong or not partitions:
        which = wrong[0] if wrong else "none"
        raise UsageError(f"a worker serves partitions from 0 to {PARTITIONS_MAX - 1}, not {which}")
    return frozenset(partitions)


class Worker:
    """Serves one group of one namespace until it is told to stop.

    ``held``, ``waits``, ``in_threads``, ``is_relaying``, ``relays``, ``own_loop``, ``crash``, ``fire``, ``consumer``
    and ``notify`` serve other parts of durasleep, and may change.
    """

    _heartbeats: Heartbeats | None = None
    _crashed = False
    _unfit: SchemaMismatch | None = None
    _is_used_up = False
    _sharing: Sharing | None = None
    _unblocking: asyncio.Future[list[Any]] | None = None

    def __init__(
        self,
        connector: Connector,
        registry: Registry,
        codec: Codec,
        *,
        namespace: str,
        group: str,
        concurrency: int,
        settings: Settings,
        name: str | None = None,
        partitions: Collection[int] | None = None,
        lifespan: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        overrides: Overrides = MappingProxyType({}),
        middleware: Sequence[Middleware] = (),
        declare: Callable[[Store], Awaitable[None]] | None = None,
        telemetry: Telemetry | None = None,
        fires_only: bool = False,
        make_holder: MakeHolder | None = None,
    ) -> None:
        """It serves these ``partitions`` only, or else its share of all of them. ``declare`` puts its schedules. If it
        ``fires_only``, it keeps the timers of all groups, and takes no executions. By default nothing is counted.
        What ``make_holder`` makes takes its executions instead of an executor; then it has no ``concurrency`` of its
        own.
        """
        self._telemetry = telemetry = telemetry or Telemetry()
        self._fires_only = fires_only
        self._pulse = Pulse(telemetry.meter)
        self.notify = Notify()
        """Tells the service manager of it."""
        self.health = Health(heartbeat_s=settings.heartbeat_s)
        """Whether it lives and is ready, for any thread."""
        self.name = check_name(name or default_name(), "worker")
        self.group = check_name(group, "group")
        # Two processes with one name never share a consumer.
        self._consumer = f"{self.name}/{secrets.token_hex(4)}"
        self._partitions = None if partitions is None else check_partitions(partitions)
        self._concurrency = 0 if fires_only or make_holder else concurrency
        self._lifespan, self._declare = lifespan, declare
        self._settings, self._registry, self._codec = settings, registry, codec
        self._store = Store(
            connector, namespace=namespace, settings=settings, name=self.name, on_exchange=telemetry.on_exchange
        )
        # Firing and reading go on while commits are answered: a quarter more workflows a second.
        self._incoming = self._store.second_connection()
        self._executor: Holder
        if make_holder is None:
            self._executor = self._make_executor(concurrency, overrides, middleware)
        else:
            self._executor = make_holder(self._surroundings())
        telemetry.know(registry.names(), self._executor.slots)
        self._declaring = Declaring(self._store, registry)
        self._reading_turns, self._firing_turns = [Turns(self._store.partitions.node_of) for _ in range(2)]
        self._servings = Servings(self._store, self._make_serving, self._begin_loop, self._beat_settled)
        self._servings.prepare((0,))  # there may be others, as soon as it has asked Redis
        self._jam, self._stop_asked, self._abort_asked = Jam(), asyncio.Event(), asyncio.Event()
        self.ready = asyncio.Event()
        """Set when the worker has sent its first heartbeat and reads."""

    def _make_executor(self, concurrency: int, overrides: Overrides, middleware: Sequence[Middleware]) -> Executor:
        return Executor(
            self._store,
            self._incoming,
            self._registry,
            self._codec,
            consumer=self._consumer,
            concurrency=concurrency,
            settings=self._settings,
            overrides=overrides,
            middleware=middleware,
            on_used_up=self._leave_used_up,
            on_full=self._unblock_readers,
            require=self._require,
            meter=self._telemetry.meter,
        )

    def _surroundings(self) -> Surroundings:
        return Surroundings(self._store, self._incoming, self._consumer, self._settings, self._require)

    @property
    def health_url(self) -> str | None:
        """Where it answers ``/livez``, ``/readyz`` and ``/metrics`` now, as ``http://HOST:PORT``; None if nowhere."""
        return self._telemetry.url

    @property
    def running(self) -> int:
        """Executions that run now; sleepers do not count."""
        return self._executor.running

    def held(self) -> list[Lease]:
        """The leases it holds."""
        return self._executor.held()

    def waits(self) -> list[Wait]:
        """Running tasks and steps that wait for other results; may be called from another thread."""
        return self._executor.waits()

    @property
    def in_threads(self) -> int:
        """Calls in threads that still run; after the end of ``run`` nobody waits for them."""
        return self._executor.in_threads

    @property
    def grace_s(self) -> float:
        """How long the worker may take to leave."""
        return self._settings.grace_s

    def own_loop(self) -> None:
        """The running loop is for this worker only. Then functions that user code calls in its threads, as by
        ``asyncio.to_thread``, count like sync functions when nobody waits for them any more.

        Do not call it if an application runs the worker in its own loop: the threads of that loop belong to the
        application.
        """
        self._executor.own_loop()

    def stop(self) -> None:
        """Read no more, let running steps finish within the grace time, release the other leases. Again: at once."""
        if self._stop_asked.is_set():
            self._abort_asked.set()
        self._begin_leaving()

    def _begin_leaving(self) -> None:
        self.health.note_leaving()
        self.notify.stopping()
        self._stop_asked.set()

    def crash(self) -> None:
        """End as by kill -9: nothing is finished, committed or released. For tests."""
        self._crashed = True
        self.abort()

    @property
    def is_relaying(self) -> bool:
        """Whether anything is under way from one partition to another."""
        return any(serving.relay.is_carrying for serving in self._servings)

    @property
    def relays(self) -> int:
        """How often anything was sent on its way from one partition to others."""
        return sum(serving.relay.begun for serving in self._servings)

    async def fire(self) -> Fired:
        """Settle one batch of the timers that are due now in each partition; the firers also do this by themselves.

        Returns the sums of what the answers count, and the earliest next due time.
        """
        return timers.sum_of([await serving.fire() for serving in self._servings])

    @property
    def consumer(self) -> str:
        """Its name for the server: the worker's name, and a part that is new at each start."""
        return self._consumer

    def abort(self) -> None:
        """Leave at once: running steps are cancelled, and their executions released."""
        self._begin_leaving()
        self._abort_asked.set()

    def _leave_used_up(self) -> None:
        """No sync function can run here any more."""
        logger.error("worker %s leaves: all its threads are lost, and its process must be started again", self.name)
        self._is_used_up = True
        self._begin_leaving()

    async def run(self, *, start_timeout_s: float | None = None) -> None:
        """Serve until ``stop``; wait for a Redis that cannot serve it now, also at the start.

        StoreUnavailable if it could not start within ``start_timeout_s``, if that is given; the time of the lifespan
        does not count. StoreRefused, UnsupportedServer or SchemaMismatch if this Redis cannot serve it at all, or not
        any more; UsageError if the namespace lacks a partition that it is to serve; ThreadsLost if it has left by
        itself, because functions that nobody waits for hold all its threads.
        """
        with self._telemetry.serving(self.health):
            self._pulse.shown_to += [self.health.pulse, self.notify.alive]
            pulse = self._begin_loop("pulse", self._pulse.run)
            try:
                async with self._lifespan():
                    humanize.be_heard()
                    await self._serve(start_timeout_s)
            finally:
                await cancel(pulse)
        if self._unfit is not None:
            raise self._unfit
        if self._is_used_up:
            raise ThreadsLost(
                f"worker {self.name} has left its work to others: for {self._settings.threads_lost_s:g} s all its "
                "threads have been held by functions nobody waits for any more; only a new process has free threads"
            )

    async def _serve(self, start_timeout_s: float | None) -> None:
        heartbeats = self._heartbeats = self._make_heartbeats()
        try:
            has_joined = await self._unless_stopped(self._join_in_time(heartbeats, start_timeout_s))
        except BaseException:
            heartbeats.stop()
            await self._close()
            raise
        if not has_joined:
            await heartbeats.leave()
            await self._close()
            logger.info("worker %s has left before it was ready", self.name)
            return
        self._servings.begin()
        if self._sharing is not None:
            self._sharing.begin(self._begin_loop)
        declaring = self._begin_loop("declaring", self._declaring.run)
        if self._fires_only:
            logger.info("worker %s is ready: it fires the timers of all groups, and runs no functions", self.name)
        else:
            logger.info("worker %s of group %s is ready: %s", self.name, self.group, self._executor.described())
        self.health.note_joined()
        self.notify.ready()
        self.ready.set()
        try:
            await self._stop_asked.wait()
            await self._finish()
        finally:
            if self._sharing is not None:
                await self._sharing.end()
            await self._servings.end()
            await cancel(declaring)
            await self._leave(heartbeats)

    async def _require(self, feature: str) -> None:
        await self._declaring.require(feature)

    def _make_heartbeats(self) -> Heartbeats:
        """They are sent in threads of their own; the answers are passed to this loop."""
        loop, store = asyncio.get_running_loop(), self._store
        watch = self._loop_watch = LoopWatch(self._settings, threading.get_ident())
        self._pulse.shown_to.append(watch.pulse)

        def make(node: Address | None, served: Callable[[], Iterable[Keyspace]]) -> Heartbeat:
            return Heartbeat(
                store.connector if node is None else store.connector.at(node),
                store.partitions,
                namespace=store.namespace,
                consumer=self._consumer,
                group=self.group,
                settings=self._settings,
                held=self._executor.held,
                served=served,
                functions=self._functions_at,
                lost_threads=lambda: self._executor.lost_threads,
                blocked_ms=watch.blocked_ms,
                slots=self._concurrency,
                on_beat=partial(self._pass_on_beat, loop),
                on_unfit=lambda error: post(loop, self._end_unfit, error),
                on_unserved=partial(heartbeats.note_unserved, node),
                knows_namespace=partial(heartbeats.knows_namespace, node),
                is_stalled=watch.is_stalled,
                outage=store.outage,
            )

        heartbeats = Heartbeats(
            store.connector.topology, make, self._servings.beating, meta_slot=store.partitions.meta_slot
        )
        return heartbeats

    def _functions_at(self, keys: Keyspace) -> str:
        """Which functions it has, for the others in this partition; empty where it does not stay."""
        stays = not self._stop_asked.is_set() and self._servings.stays(keys)
        return self._executor.functions if stays else ""

    async def _beat_settled(self) -> None:
        if self._heartbeats is not None:
            await self._heartbeats.settled()

    def _begin_loop(self, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        keeping = _keep_going(name, run, self._store.outage)
        return asyncio.get_running_loop().create_task(keeping, name=f"durasleep-{name}")

    async def _finish(self) -> None:
        """Begin nothing new and read no more; then, unless this is a crash, let the running executions finish."""
        self._executor.leave()  # before the readers have closed their connections: threads come free meanwhile
        if self._sharing is not None:
            await self._sharing.end()
        await self._servings.stop_reading()
        if self._crashed:
            return
        if self._executor.running:
            logger.info("worker %s is leaving: %d still running", self.name, self._executor.running)
        await asyncio.gather(self._drain(), *([] if self._sharing is None else [self._sharing.leave()]))

    async def _join_in_time(self, heartbeats: Heartbeats, timeout_s: float | None) -> None:
        """Join; wait this long for a Redis that cannot serve us now. A lasting problem is an error at once."""
        problems: list[StoreUnavailable] = []
        deadline = asyncio.timeout(timeout_s)
        try:
            async with deadline:
                await self._join_once_served(heartbeats, problems)
        except TimeoutError:
            if not deadline.expired():
                raise
            address = self._store.connector.address
            raise (problems or [StoreUnavailable(f"Redis at {address} does not answer")])[-1] from None

    async def _join_once_served(self, heartbeats: Heartbeats, problems: list[StoreUnavailable]) -> None:
        outage, delay_s = self._store.outage, RETRY_FIRST_S
        while True:
            try:
                await self._join(heartbeats)
            except StoreUnavailable as error:
                problems[:] = [error]
                outage.report(error)
            else:
                outage.recovered()
                return
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_MAX_S)

    async def _join(self, heartbeats: Heartbeats) -> None:
        await self._store.open(moves=True)
        for node, info in (await self._store.ask_nodes(server.read_info("memory"))).items():
            if node is None or not isinstance(info, StoreUnavailable):  # else the others of the cluster are served
                self._check_eviction(info)
        await self._declaring.begin()
        if self._declare is not None:
            await self._declare(self._store)
        await self._servings.join(await self._choose_partitions())
        await heartbeats.start()

    async def _choose_partitions(self) -> frozenset[int]:
        """Those it was told to serve, the only one, or its share as a member of its group."""
        count = len(self._store.keyspaces)
        if self._fires_only and self._partitions is None:
            return frozenset(range(count))
        if self._partitions is not None:
            self._check_partitions(self._partitions, count)
            return self._partitions
        if count == 1:
            return frozenset((0,))
        if self._sharing is not None:  # it has not come to serve at the first try
            await self._sharing.close()
        self._sharing = Sharing(
            self._store, self._servings, group=self.group, consumer=self._consumer, settings=self._settings
        )
        return await self._sharing.choose()

    def _check_partitions(self, wanted: frozenset[int], count: int) -> None:
        if (last := max(wanted)) >= count:
            has = f"partitions 0 to {count - 1}" if count > 1 else "only partition 0"
            raise UsageError(f"namespace {self._store.namespace!r} has {has}: there is no partition {last}")

    def _make_serving(self, keys: Keyspace) -> Serving:
        return Serving(
            self._store,
            self._incoming,
            keys,
            self._executor,
            consumer=self._consumer,
            group=self.group,
            settings=self._settings,
            client_id=lambda: 0 if self._heartbeats is None else self._heartbeats.client_id(keys),
            codec=self._codec,
            begin=self._begin_loop,
            reading_turns=self._reading_turns,
            firing_turns=self._firing_turns,
            meter=self._telemetry.meter,
            fires_only=self._fires_only,
        )

    def _unblock_readers(self) -> None:
        """No slot is free: what a read that blocks would bring is better taken by another worker."""
        if self._unblocking is None or self._unblocking.done():
            calls = [call for serving in self._servings if (call := serving.unblock()) is not None]
            self._unblocking = self._incoming.ask(calls)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether it came to its end; when told to stop, it no longer waits for a Redis that does not serve us."""
        working = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self._stop_asked.wait())
        try:
            await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                return False
            working.result()
            return True
        finally:
            for task in (working, stopped):
                task.cancel()
            await asyncio.gather(working, stopped, return_exceptions=True)

    def _check_eviction(self, info: bytes | DurasleepError) -> None:
        """UnsupportedServer if this Redis may drop sleeping workflows."""
        if isinstance(info, StoreUnavailable):
            raise info
        # fakeredis has no INFO, an ACL may forbid it
        policy = "" if isinstance(info, DurasleepError) else doctor.eviction(info)
        if policy and not self._settings.accept_eviction:
            raise UnsupportedServer(
                f"this Redis may drop sleeping workflows when it is full (maxmemory-policy {policy}): "
                "set maxmemory-policy noeviction, or serve all the same with --i-accept-eviction"
            )
        if policy:
            logger.warning("this Redis may drop sleeping workflows when it is full (maxmemory-policy %s)", policy)

    async def _drain(self) -> None:
        drained = asyncio.ensure_future(self._executor.drain(self._settings.grace_s))
        aborted = asyncio.ensure_future(self._abort_asked.wait())
        await asyncio.wait((drained, aborted), return_when=asyncio.FIRST_COMPLETED)
        for waiting in (drained, aborted):
            waiting.cancel()
        await asyncio.gather(drained, aborted, return_exceptions=True)

    async def _leave(self, heartbeats: Heartbeats) -> None:
        """Cancel what still runs, release all leases, and stop being a consumer."""
        await self._executor.abort()
        await heartbeats.leave()
        if self._crashed:
            await self._close()
            return
        given = 0
        try:
            async with asyncio.timeout(self._settings.dead_after_s):
                leaving = [serving.leave() for serving in self._servings]
                for answer in await asyncio.gather(*leaving, return_exceptions=True):
                    if isinstance(answer, BaseException):
                        raise answer
                    given += answer
        except (TimeoutError, DurasleepError) as error:
            logger.warning(
                "the leases could not be released (%s): other workers will take them over",
                str(error) or "no answer",
            )
        await self._close()
        logger.info("worker %s has left%s", self.name, f": {given} executions given to others" if given else "")

    async def _close(self) -> None:
        await self._store.aclose()
        await self._incoming.aclose()
        if self._sharing is not None:
            await self._sharing.close()
        for serving in self._servings:
            await serving.close()

    # -- loops

    def _end_unfit(self, error: SchemaMismatch) -> None:
        """Another version has taken over the namespace: nothing is written any more, not even to release leases."""
        logger.error("%s: this worker ends, and leaves its executions to others", error)
        self._unfit = error
        self.crash()

    def _pass_on_beat(self, loop: asyncio.AbstractEventLoop, beat: Beat, sent_us: int, received_us: int) -> None:
        """In the thread of a heartbeat: the event loop may be blocked."""
        self.health.note_beat()
        post(loop, self._take_beat, beat, sent_us, received_us)

    def _take_beat(self, beat: Beat, sent_us: int, received_us: int) -> None:
        if self._telemetry.on_exchange is not None:
            self._telemetry.on_exchange(("heartbeat",), (received_us - sent_us) / 1e6)
        self._jam.look([] if self._executor.free else self._executor.in_slots(), self._executor.waits())
        serving = self._servings.get(beat.partition)
        if serving is not None:
            serving.note_beat(beat, sent_us, received_us)


async def _keep_going(name: str, run: Callable[[], Awaitable[None]], outage: Outage) -> None:
    """Run a loop until it returns: an error is logged, and the loop begins again."""
    while True:
        delay_s = LOOP_RETRY_S
        try:
            return await run()
        except (StoreUnavailable, StoreRefused) as error:
            outage.report(error)
            if is_of_moving_slot(error):
                delay_s = RETRY_FIRST_S
        except DurasleepError as error:
            logger.error("%s: %s", name, error)
        except Exception:
            logger.exception("the %s loop failed and begins again", name)
        await asyncio.sleep(delay_s)
